"""Qwen1.5-MoE and Qwen2-MoE."""

from __future__ import annotations

from typing import Any

from alignment.architecture.expert_weights import QWEN2_MOE_LAYER
from alignment.architecture.family import ExpertKeys, Family
from alignment.errors import ModelFolderError


def _complete(given: dict[str, Any]) -> dict[str, Any]:
    """Refuse windows, which transformers reads from ``layer_types`` even if none is asked for."""
    kinds = given.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or set(map(str, kinds)) != {"full_attention"}):
        raise ModelFolderError(f"layer_types {kinds!r} is not supported (only full_attention for each layer)")
    return given


FAMILY = Family(
    name="qwen2_moe",
    class_prefix="Qwen2Moe",
    layer=QWEN2_MOE_LAYER,
    flags={"attention_bias": "qkv_bias"},
    complete=_complete,
    defaults={
        "max_position_embeddings": 32768,
        "qkv_bias": True,
        "use_sliding_window": False,
        "norm_topk_prob": False,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
    default_kv_heads=16,
    experts=ExpertKeys(
        count=("num_experts",),
        inner="moe_intermediate_size",
        shared_inner="shared_expert_intermediate_size",
        asks_normalisation=True,
        has_dense_layers=True,
    ),
)
