"""Llama and InternLM."""

from __future__ import annotations

from alignment.architecture.family import Family, PaddleNLP
from alignment.architecture.layer_weights import LLAMA_LAYER

FAMILY = Family(
    name="llama",
    class_prefix="Llama",
    aliases=("internlm",),
    layer=LLAMA_LAYER,
    flags={"attention_bias": "attention_bias", "attention_output_bias": "attention_bias", "mlp_bias": "mlp_bias"},
    defaults={"max_position_embeddings": 2048, "bos_token_id": 1},
    paddlenlp=PaddleNLP(scales_rope=True),
)
