"""Qwen2 and Qwen2.5."""

from __future__ import annotations

from alignment.architecture.family import Family, PaddleNLP
from alignment.architecture.layer_weights import LLAMA_LAYER

FAMILY = Family(
    name="qwen2",
    class_prefix="Qwen2",
    layer=LLAMA_LAYER,
    flags={"attention_bias": True},
    window="asked",
    defaults={
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    default_kv_heads=32,
    paddlenlp=PaddleNLP(),
)
