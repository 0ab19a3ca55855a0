"""Bring the keys of a config.json under Llama's names, with defaults and with what follows from other keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignment.architecture.config_rules import check, check_given
from alignment.architecture.family import Family
from alignment.errors import ModelFolderError

COMMON_DEFAULTS: dict[str, Any] = {
    "embedding_size": None,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "sliding_window": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
"""Defaults of configuration classes for keys missing in config.json; families add theirs. There is no default EOS id:
id 2 is an ordinary token of many tokenizers, and the tokenizer states its own.
"""
_OWN_NAMES = ("embedding_size",)
"""Names without a key of Llama's: in a config.json they mean nothing."""


def complete_keys(raw: Mapping[str, Any], family: Family, place: str) -> dict[str, Any]:
    """Return the checked keys of a config.json of ``family``; ModelFolderError, which names ``place``, for bad ones."""
    given = {**COMMON_DEFAULTS, **family.defaults, **_under_llamas_names(raw, family, place)}
    given |= dict.fromkeys(family.absent)
    if not reads_window(given, family):
        given["sliding_window"] = None
    check_given(given, family, place)
    try:
        given = {**family.complete(given), "model_type": family.name}
    except ModelFolderError as error:
        raise ModelFolderError(f"{place}: {error}") from None
    check(given, family, place)
    _check_head(raw, given, family, place)
    return given


def _check_head(raw: Mapping[str, Any], given: Mapping[str, Any], family: Family, place: str) -> None:
    """Refuse a width of heads in a family without that key: transformers takes it for the rotary embedding only."""
    width, hidden, heads = raw.get("head_dim"), given["hidden_size"], given["num_attention_heads"]
    if "head_dim" in family.absent and width is not None and width != hidden // heads:
        names = family.key("hidden_size"), family.key("num_attention_heads")
        raise ModelFolderError(f"{place}: head_dim {width!r} is not {' / '.join(names)} ({hidden} / {heads})")


def reads_window(given: Mapping[str, Any], family: Family) -> bool:
    """Tell whether ``sliding_window`` means something; Qwen's classes write one, or 0, where none is asked for."""
    return family.window != "never" and (family.window != "asked" or bool(given.get("use_sliding_window")))


def _under_llamas_names(raw: Mapping[str, Any], family: Family, place: str) -> dict[str, Any]:
    """Return ``raw`` under Llama's names.

    Where the family has a name of its own, Llama's means nothing (transformers ignores it), except ``also_llama``.
    """
    found = {key: value for key, value in raw.items() if key not in family.keys and key not in _OWN_NAMES}
    for name, key in family.keys.items():
        names = [spelling for spelling in (key, name) if spelling in raw]
        names = names if name in family.also_llama else [key] if key in raw else []
        if len(names) == 2 and raw[name] != raw[key]:
            raise ModelFolderError(f"{place}: {key} {raw[key]!r} and {name} {raw[name]!r} contradict each other")
        found |= {name: raw[names[0]]} if names else {}
    return found
