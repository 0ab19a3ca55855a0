"""Gemma 2."""

from __future__ import annotations

from typing import Any

from alignment.architecture.family import Family, Weight
from alignment.architecture.layer_weights import ATTENTION, FEED_FORWARD, HEAD_NORMS, POST_NORMS

FOUR_NORMS = (
    Weight("input_norm", "input_layernorm", ("hidden",), "norm"),
    POST_NORMS[0],
    Weight("feed_norm", "pre_feedforward_layernorm", ("hidden",), "norm"),
    POST_NORMS[1],
)


def every_nth_full(given: dict[str, Any], period: int) -> dict[str, Any]:
    """Return ``given`` with ``layer_types``, if it has none: layers ``period``, 2 ``period``, ... have no window."""
    if given.get("layer_types") is not None or given.get("num_hidden_layers") is None:
        return given
    numbers = range(1, given["num_hidden_layers"] + 1)
    return {**given, "layer_types": ["sliding_attention" if n % period else "full_attention" for n in numbers]}


FAMILY = Family(
    name="gemma2",
    class_prefix="Gemma2",
    layer=(*ATTENTION, *FEED_FORWARD, *HEAD_NORMS, *FOUR_NORMS),
    flags={"attention_bias": "attention_bias", "attention_output_bias": "attention_bias", "scaled_embedding": True},
    norm="rms+1",
    activations={"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"},
    keys={"hidden_act": "hidden_activation"},
    fixed={"use_bidirectional_attention": (None, False)},
    window="by layer",
    has_caps=True,
    complete=lambda given: every_nth_full(given, 2),
    defaults={
        "hidden_act": "gelu_pytorch_tanh",
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "pad_token_id": 0,
    },
    default_kv_heads=4,
)
