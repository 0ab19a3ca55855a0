"""Gemma."""

from __future__ import annotations

from alignment.architecture.family import Family
from alignment.architecture.layer_weights import LLAMA_LAYER

_GELU_TANH = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu_tanh"}
"""Gemma's first folders say ``gelu`` for the approximation by tanh that they were trained with."""

FAMILY = Family(
    name="gemma",
    class_prefix="Gemma",
    layer=LLAMA_LAYER,
    flags={"attention_bias": "attention_bias", "attention_output_bias": "attention_bias", "scaled_embedding": True},
    norm="rms+1",
    activations=_GELU_TANH,
    fixed={"hidden_activation": (None, "gelu_pytorch_tanh"), "use_bidirectional_attention": (None, False)},
    defaults={
        "hidden_act": "gelu_pytorch_tanh",
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "pad_token_id": 0,
    },
    default_kv_heads=16,
)
