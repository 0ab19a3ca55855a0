"""Qwen3."""

from __future__ import annotations

from alignment.architecture.family import Family
from alignment.architecture.layer_weights import LLAMA_LAYER

FAMILY = Family(
    name="qwen3",
    class_prefix="Qwen3",
    layer=LLAMA_LAYER,
    flags={"attention_bias": "attention_bias", "attention_output_bias": "attention_bias", "qk_norm": True},
    window="asked",
    defaults={
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "head_dim": 128,
    },
    default_kv_heads=32,
)
