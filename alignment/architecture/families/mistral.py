"""Mistral."""

from __future__ import annotations

from alignment.architecture.family import Family, PaddleNLP
from alignment.architecture.layer_weights import LLAMA_LAYER

FAMILY = Family(
    name="mistral",
    class_prefix="Mistral",
    layer=LLAMA_LAYER,
    window="all or none",
    defaults={"max_position_embeddings": 131072, "sliding_window": 4096, "bos_token_id": 1},
    default_kv_heads=8,
    paddlenlp=PaddleNLP(ties_head=False, zeroes_padding=True),
)
