"""The tiny models of the tests: one shape, and weights that are drawn large enough for differences to show."""

from __future__ import annotations

from typing import Any

from alignment.architecture.decoder_config import DecoderConfig
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions

TINY = {
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
}
"""Keys of its config.json."""


def tiny_config(**changes: Any) -> DecoderConfig:
    """Return the configuration, with other values for some keys (None: as if the key were missing)."""
    return DecoderConfig.from_dict({key: value for key, value in {**TINY, **changes}.items() if value is not None})


def tiny_causal(*, seed: int = 0, std: float = 0.3, dtype: str = "float32", **changes: Any) -> CausalLM:
    """Return a language model with weights drawn from ``seed``."""
    model = CausalLM(tiny_config(**changes), dtype=dtype)
    draw_weights(model, seed=seed, std=std)
    return model


def tiny_score(
    options: ScoreOptions | None = None, *, seed: int = 1, std: float = 0.3, dtype: str = "float32", **changes: Any
) -> ScoreModel:
    """Return a score model (by default a reward model) with weights drawn from ``seed``."""
    model = ScoreModel(tiny_config(**changes), options or ScoreOptions(), dtype=dtype)
    draw_weights(model, seed=seed, std=std)
    return model
