"""The tiny models of the tests: one shape, and weights that are drawn large enough for differences to show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from alignment.architecture.adapter import Adapter, choose_modules
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import FAMILIES
from alignment.models.adapters.attach import attach_adapter
from alignment.models.adapters.folder import save_adapter, trained_weights
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders.saving import WeightSource

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
    given = in_own_names({**TINY, **changes})
    return DecoderConfig.from_dict({key: value for key, value in given.items() if value is not None})


def in_own_names(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys of a config.json given under Llama's names under those of its ``model_type``."""
    own = FAMILIES[keys["model_type"]].keys
    return {name if own.get(name) in keys else own.get(name, name): value for name, value in keys.items()}


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


def write_adapter(folder: Path, model: CausalLM, *, rank: int, dropout: float = 0.0, std: float = 0.0) -> None:
    """Write an adapter of all matrices of ``model`` to ``folder``; its B are drawn with ``std``."""
    modules = choose_modules(model.config, ["all-linear"])
    attach_adapter(model, Adapter(rank=rank, alpha=2 * rank, dropout=dropout, modules=modules), seed=1)
    generator = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B.weight"):
            values = generator.standard_normal(parameter.shape).astype("float32") * std
            parameter.set_value(paddle.to_tensor(values))
    save_adapter(folder, model, None, trained_weights(WeightSource.of(model)))
