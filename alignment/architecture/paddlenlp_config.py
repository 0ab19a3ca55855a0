"""Convert PaddleNLP's config.json to Hugging Face's keys and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignment.architecture.families import FAMILIES
from alignment.architecture.family import PaddleNLP
from alignment.errors import ModelFolderError

VERSION_KEY = "paddlenlp_version"
"""Written only by PaddleNLP."""
ROPE_KEYS = ("rope_scaling_type", "rope_scaling_factor")
_ROPE_TYPES = {"linear": "linear", "dynamic_ntk": "dynamic", "ntk": None}
"""PaddleNLP's names of rotary embeddings; ``ntk`` is a plain one with another base."""
_OWN_KEYS = (
    VERSION_KEY, *ROPE_KEYS, "seq_length", "alibi", "dpo_config", "sequence_parallel", "sep_parallel_degree",
    "context_parallel_degree", "use_last_token_for_generation", "immediate_clear_past_key_value", "virtual_pp_degree",
)  # fmt: skip
_OWN_PREFIXES = (
    "fuse_", "use_fused_", "use_flash_attention", "long_sequence_", "use_long_sequence_", "tensor_parallel_",
    "pipeline_parallel_", "recompute",
)  # fmt: skip
"""Prefixes of keys that affect how PaddleNLP runs a model, not what it computes."""
_FORMAT_VERSION = "3.0.0b4"
"""The version of PaddleNLP whose files are written."""
_FOREIGN_KEYS = ("transformers_version", "auto_map", "rope_parameters", "rope_scaling", "head_dim", "attention_bias",
                 "mlp_bias")  # fmt: skip


def from_paddlenlp(raw: Mapping[str, Any], *, place: str) -> dict[str, Any]:
    """Return a config.json without the keys that only PaddleNLP knows; others are returned unchanged.

    ModelFolderError, naming ``place``, for features that the decoder does not support.
    """
    if not {VERSION_KEY, *ROPE_KEYS} & raw.keys():
        return dict(raw)
    unusual = [name for name in ("alibi", "use_long_sequence_strategies") if raw.get(name)]
    if unusual:
        raise ModelFolderError(f"{place}: {unusual[0]} is not supported (rotary embeddings only)")
    kept = {name: value for name, value in raw.items() if not (name in _OWN_KEYS or name.startswith(_OWN_PREFIXES))}
    kind = raw.get("rope_scaling_type")
    return kept if kind is None or raw.get("rope_scaling") else {**kept, **_read_rope(raw, kind, place)}


def _read_rope(raw: Mapping[str, Any], kind: Any, place: str) -> dict[str, Any]:
    """Return the Hugging Face keys for ``rope_scaling_type`` and ``rope_scaling_factor``."""
    if not isinstance(kind, str) or kind not in _ROPE_TYPES:
        raise ModelFolderError(
            f"{place}: rope_scaling_type {kind!r} is not supported (kinds: {', '.join(_ROPE_TYPES)})"
        )
    if not _scales_rope(raw.get("model_type")):
        raise ModelFolderError(
            f"{place}: rope_scaling_type {kind!r} in a {raw.get('model_type')!r} model: PaddleNLP ignores it there, so "
            "it is unknown what the weights were trained with. Set it to null, or use rope_scaling"
        )
    factor = raw.get("rope_scaling_factor", 1.0)
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 <= factor < float("inf"):
        raise ModelFolderError(f"{place}: rope_scaling_factor must be a number of at least 1, found {factor!r}")
    if kind != "ntk":
        return {"rope_scaling": {"rope_type": _ROPE_TYPES[kind], "factor": float(factor)}}
    try:
        width = raw["hidden_size"] // raw["num_attention_heads"]
        theta = raw.get("rope_theta", 10000.0) * factor ** (width / (width - 2))
        return {"rope_theta": theta, "max_position_embeddings": int(raw["max_position_embeddings"] * factor)}
    except (KeyError, TypeError, ArithmeticError) as error:
        raise ModelFolderError(f"{place}: rope_scaling_type 'ntk' needs the sizes of the model ({error!r})") from None


def _scales_rope(model_type: Any) -> bool:
    """Tell whether PaddleNLP's model of exactly this type reads the two keys; PaddleNLP does not know aliases."""
    families = (FAMILIES[name] for name in FAMILIES if name == model_type)
    return any(family.paddlenlp is not None and family.paddlenlp.scales_rope for family in families)


def to_paddlenlp(raw: Mapping[str, Any], *, head_dim: int, place: str) -> dict[str, Any]:
    """Return a config.json with PaddleNLP's keys; ``head_dim`` is the width of the model's heads.

    ModelFolderError, naming ``place``, if PaddleNLP has no model that computes the same.
    """
    family, known = raw["model_type"], [name for name in FAMILIES if FAMILIES[name].paddlenlp is not None]
    theirs = FAMILIES[family].paddlenlp
    if theirs is None:
        raise ModelFolderError(f"{place}: PaddleNLP has no model for {family!r} (it has: {', '.join(known)})")
    problems = [f"{name} is true" for name in ("attention_bias", "mlp_bias") if raw.get(name)]
    if head_dim * raw["num_attention_heads"] != raw["hidden_size"]:
        problems.append(f"head_dim {head_dim} is not hidden_size / num_attention_heads")
    rope = _write_rope(raw.get("rope_scaling"), theirs)
    if rope is None:
        problems.append(f"its rotary embedding is scaled ({raw['rope_scaling'].get('rope_type')})")
    if problems:
        raise ModelFolderError(f"{place}: PaddleNLP's {family} model does not compute this one: {'; '.join(problems)}")
    kept = {name: value for name, value in raw.items() if name not in _FOREIGN_KEYS} | rope
    if not theirs.ties_head:
        kept["tie_word_embeddings"] = False
    if theirs.zeroes_padding:
        kept["pad_token_id"] = None
    return {**kept, VERSION_KEY: _FORMAT_VERSION}


def _write_rope(scaling: Mapping[str, Any] | None, theirs: PaddleNLP) -> dict[str, Any] | None:
    """Return PaddleNLP's keys of a rotary embedding; None if ``theirs`` does not support it."""
    if scaling is None:
        return dict(zip(ROPE_KEYS, (None, 1.0), strict=True))
    kind = scaling.get("rope_type")
    if not theirs.scales_rope or kind not in ("linear", "dynamic", "llama3"):
        return None
    if kind == "llama3":
        return {"rope_scaling": dict(scaling)}
    return dict(zip(ROPE_KEYS, ({"linear": "linear", "dynamic": "dynamic_ntk"}[kind], scaling["factor"]), strict=True))
