"""Qwen3-MoE."""

from __future__ import annotations

from alignment.architecture.expert_weights import QWEN3_MOE_LAYER
from alignment.architecture.family import ExpertKeys, Family

FAMILY = Family(
    name="qwen3_moe",
    class_prefix="Qwen3Moe",
    layer=QWEN3_MOE_LAYER,
    flags={"attention_bias": "attention_bias", "attention_output_bias": "attention_bias", "qk_norm": True},
    defaults={
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "norm_topk_prob": False,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    default_kv_heads=4,
    experts=ExpertKeys(
        count=("num_local_experts", "num_experts"),
        inner="moe_intermediate_size",
        asks_normalisation=True,
        has_dense_layers=True,
    ),
)
