"""GLM-4 of the series 0414."""

from __future__ import annotations

from alignment.architecture.families.phi3 import GATE_UP
from alignment.architecture.family import Family, Files, Weight
from alignment.architecture.layer_weights import ATTENTION, FEED_FORWARD, NORMS

_POST_NORMS = (
    Weight("attended_norm", "post_self_attn_layernorm", ("hidden",), "norm"),
    Weight("fed_norm", "post_mlp_layernorm", ("hidden",), "norm"),
)

FAMILY = Family(
    name="glm4",
    class_prefix="Glm4",
    layer=(*ATTENTION, *FEED_FORWARD, *NORMS, *_POST_NORMS),
    flags={"attention_bias": "attention_bias"},
    rotates_neighbours=True,
    partial_rotary_factor=0.5,
    defaults={
        "rms_norm_eps": 1.5625e-7,
        "max_position_embeddings": 131072,
        "head_dim": 128,
        "attention_bias": True,
        "pad_token_id": 151329,
    },
    default_kv_heads=2,
    files=Files(matrices=(GATE_UP,)),
)
