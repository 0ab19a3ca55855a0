"""OLMo 2."""

from __future__ import annotations

from alignment.architecture.family import Family, Weight
from alignment.architecture.layer_weights import ATTENTION, FEED_FORWARD, POST_NORMS

_HEAD_NORMS = (
    Weight("query_norm", "self_attn.q_norm", ("queries",), "norm", cut="columns"),
    Weight("key_norm", "self_attn.k_norm", ("keys",), "norm", cut="columns"),
)

FAMILY = Family(
    name="olmo2",
    class_prefix="Olmo2",
    layer=(*ATTENTION, *FEED_FORWARD, *_HEAD_NORMS, *POST_NORMS),
    flags={"attention_bias": "attention_bias", "attention_output_bias": "attention_bias"},
    defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "pad_token_id": 1},
)
