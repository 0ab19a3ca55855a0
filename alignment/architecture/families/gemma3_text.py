"""Gemma 3, the language model without images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from alignment.architecture.families import gemma2
from alignment.errors import ModelFolderError


def _complete(given: dict[str, Any]) -> dict[str, Any]:
    """Say which layers have windows, and read the rotary embeddings that transformers 5 writes by kind of layer."""
    given = gemma2.every_nth_full(given, given.get("sliding_window_pattern") or 6)
    for key in ("rope_scaling", "rope_parameters"):
        kinds = given.get(key)
        if not isinstance(kinds, Mapping) or not {"full_attention", "sliding_attention"} & set(kinds):
            continue
        local = dict(kinds.get("sliding_attention") or {})
        base = local.pop("rope_theta", given["rope_local_base_freq"])
        if local.pop("rope_type", "default") != "default" or local:
            raise ModelFolderError(
                f"config.json: {key} of sliding_attention {dict(kinds['sliding_attention'])} is not supported (only "
                "rope_type 'default' with a rope_theta)"
            )
        given = {**given, key: dict(kinds.get("full_attention") or {}), "rope_local_base_freq": base}
    return given


FAMILY = replace(
    gemma2.FAMILY,
    name="gemma3_text",
    class_prefix="Gemma3Text",
    causal_class="Gemma3ForCausalLM",
    flags={**gemma2.FAMILY.flags, "qk_norm": True},
    has_local_rope=True,
    complete=_complete,
    defaults={
        **gemma2.FAMILY.defaults,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
)
