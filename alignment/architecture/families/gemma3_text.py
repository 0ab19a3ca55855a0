"""Gemma 3, the language model without images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from alignment.architecture.config_rules import is_size
from alignment.architecture.families import gemma2
from alignment.errors import ModelFolderError


def _complete(given: dict[str, Any]) -> dict[str, Any]:
    """Say which layers have windows, and read the rotary embeddings that transformers 5 writes by kind of layer."""
    period = given["sliding_window_pattern"]
    if given.get("layer_types") is None and not is_size(period):
        raise ModelFolderError(f"sliding_window_pattern must be a positive integer, found {period!r}")
    given = _read_rope(given)
    return gemma2.every_nth_full(given, period)


def _read_rope(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("rope_scaling") and given.get("rope_parameters"):
        raise ModelFolderError("rope_scaling and rope_parameters are both given (allowed: one of them)")
    for key in ("rope_scaling", "rope_parameters"):
        kinds = given.get(key) or {}
        if not {"full_attention", "sliding_attention"} & set(kinds):
            if kinds and key == "rope_parameters":
                raise ModelFolderError(f"{key} {dict(kinds)} must hold full_attention and sliding_attention")
            continue
        full, local = (_of_layers(kinds, kind, key) for kind in ("full_attention", "sliding_attention"))
        base = local.pop("rope_theta", given["rope_local_base_freq"])
        if local.pop("rope_type", "default") != "default" or local:
            raise ModelFolderError(
                f"{key} of sliding_attention {dict(kinds['sliding_attention'])} is not supported (only "
                "rope_type 'default' with a rope_theta)"
            )
        given = {**given, key: full, "rope_local_base_freq": base}
    return given


def _of_layers(kinds: Mapping[str, Any], kind: str, key: str) -> dict[str, Any]:
    found = kinds.get(kind)
    if found is not None and not isinstance(found, Mapping):
        raise ModelFolderError(f"{kind} in {key} must be an object or null, found {found!r}")
    return dict(found or {})


FAMILY = replace(
    gemma2.FAMILY,
    name="gemma3_text",
    class_prefix="Gemma3Text",
    causal_class="Gemma3ForCausalLM",
    flags={**gemma2.FAMILY.flags, "qk_norm": True},
    fixed={**gemma2.FAMILY.fixed, "attn_logit_softcapping": (None,)},
    has_local_rope=True,
    complete=_complete,
    defaults={
        **gemma2.FAMILY.defaults,
        "max_position_embeddings": 131072,
        "sliding_window_pattern": 6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
)
