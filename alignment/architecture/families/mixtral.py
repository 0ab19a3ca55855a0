"""Mixtral."""

from __future__ import annotations

from alignment.architecture.expert_weights import MIXTRAL_LAYER
from alignment.architecture.family import ExpertKeys, Family

FAMILY = Family(
    name="mixtral",
    class_prefix="Mixtral",
    layer=MIXTRAL_LAYER,
    window="always",
    defaults={
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "bos_token_id": 1,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    default_kv_heads=8,
    experts=ExpertKeys(count=("num_local_experts",), inner="intermediate_size"),
)
