"""Llama and InternLM."""

from __future__ import annotations

from typing import Any

from alignment.architecture.family import Family, PaddleNLP
from alignment.architecture.layer_weights import LLAMA_LAYER


def _complete(given: dict[str, Any]) -> dict[str, Any]:
    """Read what InternLM calls ``bias``; in a score model, that is its head's."""
    is_biased = given["model_type"] in FAMILY.aliases and "score_type" not in given and given.get("bias")
    return {**given, "attention_bias": True} if is_biased else given


FAMILY = Family(
    name="llama",
    class_prefix="Llama",
    aliases=("internlm",),
    layer=LLAMA_LAYER,
    flags={"attention_bias": "attention_bias", "attention_output_bias": "attention_bias", "mlp_bias": "mlp_bias"},
    complete=_complete,
    defaults={"max_position_embeddings": 2048, "bos_token_id": 1},
    paddlenlp=PaddleNLP(scales_rope=True),
)
