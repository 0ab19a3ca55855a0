"""Check the keys of a config.json, and read heads, biases and windows from it by the family's table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType, NoneType
from typing import Any

from alignment.architecture.family import FLAGS, Family
from alignment.architecture.rope_settings import is_number
from alignment.errors import ModelFolderError

TEMPLATE_KEY = "trained_template"
COMPARISON_KEY = "pairwise_comparison"
LARGEST_SIZE, MOST_LAYERS, WIDEST_HEAD = 2**31 - 1, 10_000, 2**16
WIDTHS = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
SIZES = (*WIDTHS, "num_hidden_layers")
CAPS: Mapping[str, str] = MappingProxyType(
    {"attn_logit_softcapping": "attention_cap", "final_logit_softcapping": "logit_cap"}
)
"""The fields of DecoderConfig by their keys."""
OPPOSITE = "not "
"""Before a key in ``Family.flags``: the flag is its opposite."""


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_size(value: Any, largest: int = LARGEST_SIZE) -> bool:
    """Tell whether a JSON value is an integer from 1 to ``largest``."""
    return _is_integer(value) and 1 <= value <= largest


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def are_ids(value: Any) -> bool:
    """Tell whether a JSON value can be EOS ids: an integer or a list of them."""
    return all(map(_is_integer, value)) if isinstance(value, (list, tuple)) else _is_integer(value)


def _is_from_0(value: Any) -> bool:
    return is_number(value) and value >= 0


def _is_above_0(value: Any) -> bool:
    return is_number(value) and value > 0


def _or_null(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _are_kinds(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(kind in _LAYER_KINDS for kind in value)


_LAYER_KINDS = ("full_attention", "sliding_attention")
_RULES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    ((*WIDTHS, "max_position_embeddings"), is_size, "a positive integer"),
    (("num_hidden_layers",), partial(is_size, largest=MOST_LAYERS), f"an integer from 1 to {MOST_LAYERS}"),
    (("num_key_value_heads", "sliding_window", "embedding_size"), _or_null(is_size), "a positive integer or null"),
    (("head_dim",), _or_null(partial(is_size, largest=WIDEST_HEAD)), f"an integer from 1 to {WIDEST_HEAD} or null"),
    (("max_window_layers",), _is_integer, "an integer"),
    (("bos_token_id", "pad_token_id"), _or_null(_is_integer), "an integer or null"),
    (("eos_token_id",), _or_null(are_ids), "an integer, a list of integers or null"),
    (("rms_norm_eps", "initializer_range"), _is_from_0, "a number from 0"),
    (("rope_theta",), _or_null(is_number), "a number or null"),
    (("query_pre_attn_scalar", "rope_local_base_freq"), _is_above_0, "a number above 0"),
    (tuple(CAPS), _or_null(_is_above_0), "a number above 0 or null"),
    (("rope_scaling", "rope_parameters", TEMPLATE_KEY, COMPARISON_KEY), _or_null(_is_object), "an object or null"),
)
"""(keys, check of their values, description of the allowed values)."""
_NEEDED = (*SIZES, "max_position_embeddings", "rms_norm_eps", "initializer_range")
"""The keys that every family needs; others need those for which they have a default."""
_FIXED: Mapping[str, tuple[Any, ...]] = MappingProxyType({"is_causal": (True,), "per_layer_config": (None, {})})
"""``Family.fixed`` of every family."""


def check_given(given: Mapping[str, Any], family: Family, place: str) -> None:
    """Raise one ModelFolderError with every value that has a wrong type or that the decoder does not support.

    A key that is missing or null may still follow from others; see ``check``.
    """
    problems = _broken_rules(_said(given), family)
    problems += [
        f"{name} must be true or false, found {given[name]!r}"
        for name in _switches(given, family)
        if not isinstance(given[name], (bool, NoneType))
    ]
    kinds = given.get("layer_types")
    if family.window != "never" and kinds is not None and not _are_kinds(kinds):
        problems.append(f"layer_types must be a list of {' and '.join(_LAYER_KINDS)}, found {kinds!r}")
    if not isinstance(given["hidden_act"], str) or given["hidden_act"] not in family.activations:
        known = ", ".join(map(repr, family.activations))
        problems.append(f"{family.key('hidden_act')} {given['hidden_act']!r} is not supported (only {known})")
    problems += [
        f"{name}={given[name]!r} is not supported (allowed: {', '.join(map(repr, allowed))})"
        for name, allowed in {**_FIXED, **family.fixed}.items()
        if name in given and given[name] not in allowed
    ]
    if given.get("quantization_config"):
        problems.append("quantization_config: quantized weights are not supported, use an unquantized folder")
    _refuse(problems, place)


def check(given: Mapping[str, Any], family: Family, place: str) -> None:
    """Raise one ModelFolderError with every value that is missing or follows from others and is bad."""
    needed = {key: given.get(key) for key in (*_NEEDED, *family.defaults)}
    _refuse(_broken_rules({**_said(given), **needed}, family), place)


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def _broken_rules(given: Mapping[str, Any], family: Family) -> list[str]:
    return [
        f"{family.key(name)} must be {wanted}, found {given[name]!r}"
        for names, fits, wanted in _RULES
        for name in names
        if name in given and not fits(given[name])
    ]


def _switches(given: Mapping[str, Any], family: Family) -> list[str]:
    """Return the keys of ``given`` that are true or false: those of flags, and those whose default is."""
    known = {says.removeprefix(OPPOSITE) for says in family.flags.values() if isinstance(says, str)}
    known |= {"tie_word_embeddings"} | {key for key, value in family.defaults.items() if isinstance(value, bool)}
    return [key for key in given if key in known]


def _refuse(problems: list[str], place: str) -> None:
    if problems:
        raise ModelFolderError(f"{place}: {'; '.join(problems)}")


def read_heads(given: Mapping[str, Any], family: Family, place: str) -> dict[str, Any]:
    """Return the number of key/value heads and the head width."""
    heads = int(given["num_attention_heads"])
    kv_heads = given.get("num_key_value_heads", family.default_kv_heads)
    kv_heads = heads if kv_heads is None else int(kv_heads)
    head_dim = given.get("head_dim")
    if head_dim is None and given["hidden_size"] % heads:
        raise ModelFolderError(
            f"{place}: hidden_size {given['hidden_size']} is not a multiple of num_attention_heads {heads}"
        )
    if kv_heads < 1 or heads % kv_heads:
        raise ModelFolderError(
            f"{place}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    width = int(given["hidden_size"] // heads if head_dim is None else head_dim)
    if not 1 <= width <= WIDEST_HEAD:
        raise ModelFolderError(f"{place}: head_dim {width} is out of range (allowed: 2 to {WIDEST_HEAD})")
    if width % 2:
        raise ModelFolderError(f"{place}: head_dim {width} is odd; rotary embeddings rotate pairs of numbers")
    return {"num_key_value_heads": kv_heads, "head_dim": width}


def read_window(given: Mapping[str, Any], family: Family, longest: int, place: str) -> dict[str, Any]:
    """Return the sliding window (None: full attention) and the numbers of the layers without it.

    A window of at least ``longest`` tokens that was asked for counts as none.
    """
    window, count = given["sliding_window"], given["num_hidden_layers"]
    if window is None:
        _check_without_window(given, family, place)
        return {}
    full = _full_layers(given, family, place)
    if full and (family.window == "always" or (family.window == "all or none" and len(full) < count)):
        raise ModelFolderError(
            f"{place}: full_attention in layer_types and sliding_window {window} are not supported together for "
            f"{family.name}. If no layer has a window, write sliding_window null; if all have it, remove layer_types"
        )
    if len(full) == count or (window >= longest and family.window == "asked"):
        return {}
    return {"sliding_window": window, "full_layers": full}


def _check_without_window(given: Mapping[str, Any], family: Family, place: str) -> None:
    """Refuse layers that ask for a window where there is none."""
    is_asked = family.window == "asked" and given.get("layer_types") is not None
    if not (is_asked or family.window == "by layer"):
        return
    if len(_full_layers(given, family, place)) < given["num_hidden_layers"]:
        why = "use_sliding_window is not true" if is_asked else "sliding_window null is not supported"
        raise ModelFolderError(f"{place}: layer_types has layers with sliding_attention, but {why}")


def _full_layers(given: Mapping[str, Any], family: Family, place: str) -> tuple[int, ...]:
    """Return the layers without a window: by ``layer_types``, else none or those before ``max_window_layers``."""
    kinds, count = given.get("layer_types"), given["num_hidden_layers"]
    if kinds is None:
        return tuple(range(min(count, given["max_window_layers"]))) if family.window == "asked" else ()
    if len(kinds) != count:
        raise ModelFolderError(f"{place}: layer_types must have one kind for each of {count} layers, found {kinds!r}")
    return tuple(number for number, kind in enumerate(kinds) if kind == "full_attention")


def read_attention(given: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Return soft-caps, the scale of scores, and the base of the rotary embedding of layers with a window."""
    found: dict[str, Any] = {}
    if family.has_caps:
        found |= {field: float(given.get(key) or 0.0) for key, field in CAPS.items()}
        found["query_pre_attn_scalar"] = given["query_pre_attn_scalar"]
    if family.has_local_rope:
        found["rope_local_base_freq"] = float(given["rope_local_base_freq"])
    return found


def read_flags(given: Mapping[str, Any], family: Family) -> dict[str, bool]:
    """Return which projections have a bias, whether heads are normalised, and whether the embedding is tied."""
    asked = {name: family.flags.get(name, False) for name in FLAGS}
    flags = {name: _flag(given, says) for name, says in asked.items()}
    return {**flags, "tie_word_embeddings": bool(given["tie_word_embeddings"])}


def _flag(given: Mapping[str, Any], says: str | bool) -> bool:
    """Return the constant that a table ``says``, or what ``given`` has under the key that it names."""
    if isinstance(says, bool):
        return says
    return bool(given.get(says.removeprefix(OPPOSITE))) != says.startswith(OPPOSITE)
