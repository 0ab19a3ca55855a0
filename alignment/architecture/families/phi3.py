"""Phi-3 and Phi-4-mini."""

from __future__ import annotations

from typing import Any

from alignment.architecture.family import Family, FileMatrix, Files
from alignment.architecture.layer_weights import LLAMA_LAYER

QKV = FileMatrix(name="self_attn.qkv_proj", roles=("queries", "keys", "values"))
GATE_UP = FileMatrix(name="mlp.gate_up_proj", roles=("gate", "up"))


def _complete(given: dict[str, Any]) -> dict[str, Any]:
    """Use today's name of the rotary embedding; Phi-3's first folders call it ``su`` or ``yarn``."""
    for key in ("rope_scaling", "rope_parameters"):
        scaling = given.get(key) or {}
        if scaling.get("rope_type", scaling.get("type")) in ("su", "yarn"):
            given = {**given, key: {**scaling, "rope_type": "longrope"}}
    return given


FAMILY = Family(
    name="phi3",
    class_prefix="Phi3",
    layer=LLAMA_LAYER,
    window="always",
    partial_rotary_factor=1.0,
    complete=_complete,
    defaults={
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "bos_token_id": 1,
        "pad_token_id": 32000,
    },
    files=Files(matrices=(QKV, GATE_UP)),
)
