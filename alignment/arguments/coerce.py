"""Convert raw values of a file or the command line to the declared type of an argument."""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from alignment.fields import NO_CONSTRAINT, Constraint
from alignment.registry import near_matches

_TRUE = ("true", "t", "yes", "y", "1")
_FALSE = ("false", "f", "no", "n", "0")
_NULL = ("", "none", "null")


def coerce(raw: Any, hint: Any, constraint: Constraint) -> Any:
    """Convert ``raw`` to type ``hint`` within ``constraint``; ValueError says what was expected.

    Datasets, reward sources and placements given as a list or an object become JSON text, which means the same on the
    command line.
    """
    is_structured = constraint.is_object or constraint.path in ("datasets", "rewards")
    if is_structured and isinstance(raw, (list, Mapping)):
        raw = json.dumps(raw, ensure_ascii=False)
    is_union = get_origin(hint) in (Union, types.UnionType)
    if raw is None or (is_union and type(None) in get_args(hint) and _is_null(raw)):
        if is_union and type(None) in get_args(hint):
            return None
        raise ValueError("null is not allowed; leave the key out to use its default")
    if is_union:
        return _coerce_union(raw, [a for a in get_args(hint) if a is not type(None)], constraint)
    if get_origin(hint) is tuple:
        return _coerce_list(raw, get_args(hint)[0], constraint)
    return _check_range(_coerce_one(_respell(raw, constraint), hint), constraint)


def describe_type(hint: Any, constraint: Constraint = NO_CONSTRAINT) -> str:
    """Describe the type and range of an argument."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else describe_type(a, constraint) for a in get_args(hint))
    if get_origin(hint) is tuple:
        return f"list of {describe_type(get_args(hint)[0], constraint)}"
    if get_origin(hint) is Literal:
        return ", ".join(repr(a) for a in get_args(hint))
    name = {bool: "true/false", int: "whole number", float: "number", str: "text"}[hint]
    return f"{name} {describe_range(constraint)}".rstrip() if hint in (int, float) else name


def _is_null(raw: Any) -> bool:
    return isinstance(raw, str) and raw.strip().lower() in _NULL


def _coerce_union(raw: Any, members: list[Any], constraint: Constraint) -> Any:
    """Try true/false first, so that ``bool | str`` reads "true" as a bool; 0 and 1 are not bools here."""
    if bool in members and len(members) > 1:
        if isinstance(raw, bool) or str(raw).lower() in ("true", "false"):
            return _coerce_bool(raw)
        members = [m for m in members if m is not bool]
        if get_origin(members[0]) is Literal and raw not in get_args(members[0]):
            words = get_args(members[0])
            shown = ", ".join(map(repr, words))
            raise ValueError(f"expected true, false or {shown}, got {raw!r}{near_matches(str(raw), words)}")
    words = [m for m in members if get_origin(m) is Literal]
    if words and len(members) > 1:
        return _coerce_number_or_word(raw, next(m for m in members if m not in words), words[0], constraint)
    return coerce(raw, members[0], constraint)


def _coerce_number_or_word(raw: Any, number: Any, words: Any, constraint: Constraint) -> Any:
    if isinstance(raw, str) and raw in get_args(words):
        return raw
    try:
        return coerce(raw, number, constraint)
    except ValueError as error:
        raise ValueError(f"{error}, or {describe_type(words)}") from None


def _coerce_list(raw: Any, item_hint: Any, constraint: Constraint) -> tuple[Any, ...]:
    if isinstance(raw, str):
        found = _read_json_list(raw)
        raw = [part for part in re.split(constraint.separator, raw.strip()) if part] if found is None else found
    items = raw if isinstance(raw, list) else [raw]
    values = [_check_range(_coerce_one(_respell(item, constraint), item_hint), constraint) for item in items]
    return tuple(values if constraint.keeps_repeats else dict.fromkeys(values))


def _read_json_list(raw: str) -> list[Any] | None:
    """Return the items of a list that is written as in a file, such as ["a", "b"]; None if ``raw`` is none."""
    if not raw.strip().startswith("["):
        return None
    try:
        found = json.loads(raw)
    except ValueError:
        return None  # a pattern, such as [qv]_proj
    return found if isinstance(found, list) else None


def _respell(raw: Any, constraint: Constraint) -> Any:
    spellings: Mapping[Any, Any] = constraint.spellings or {}
    return spellings.get(raw, raw) if isinstance(raw, str) else raw


def _coerce_one(raw: Any, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        if raw is False and "no" in get_args(hint):
            return "no"  # what YAML makes of a bare no
        if raw in get_args(hint) and not isinstance(raw, bool):
            return raw
        raise ValueError(f"expected one of {describe_type(hint)}, got {raw!r}{near_matches(str(raw), get_args(hint))}")
    if get_origin(hint) in (Union, types.UnionType):
        return raw if type(raw) in get_args(hint) else _coerce_one(raw, get_args(hint)[0])
    return _SCALARS[hint](raw)


def _coerce_bool(raw: Any) -> bool:
    text = str(raw).strip().lower()
    if isinstance(raw, (bool, int, str)) and text in _TRUE + _FALSE:
        return text in _TRUE
    raise ValueError(f"expected true or false, got {raw!r}")


def _coerce_int(raw: Any) -> int:
    if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9]{1,400}", raw.strip()):
        return int(raw)
    number = _to_number(raw)
    if number is None or (isinstance(number, float) and not number.is_integer()):
        raise ValueError(f"expected a whole number, got {raw!r}")
    return int(number)


def _coerce_float(raw: Any) -> float:
    number = _to_number(raw)
    if number is None or not math.isfinite(number):
        raise ValueError(f"expected a {'number' if number is None else 'finite number'}, got {raw!r}")
    return float(number)


def _to_number(raw: Any) -> int | float | None:
    """Return a number, also from its text; None for anything else, including true and false."""
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        return None
    try:
        return float(raw) if isinstance(raw, str) else raw
    except ValueError:
        return None


def _coerce_text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw.strip():
        raise ValueError(f"expected text, got {raw!r}")
    if "\0" in raw:
        raise ValueError(f"expected text without NUL, got {raw!r}")
    return raw


_SCALARS: Mapping[type, Callable[[Any], Any]] = types.MappingProxyType(
    {bool: _coerce_bool, int: _coerce_int, float: _coerce_float, str: _coerce_text}
)


def _check_range(value: Any, constraint: Constraint) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    fits = (
        (constraint.minimum is None or value >= constraint.minimum)
        and (constraint.maximum is None or value <= constraint.maximum)
        and (constraint.above is None or value > constraint.above)
        and (constraint.below is None or value < constraint.below)
        and value not in constraint.excluded
    )
    if not fits:
        raise ValueError(f"expected a value {describe_range(constraint)}, got {value!r}")
    return value


def describe_range(constraint: Constraint) -> str:
    """Describe the allowed range, or return an empty string."""
    parts = [
        (constraint.minimum, ">= {}"),
        (constraint.above, "> {}"),
        (constraint.maximum, "<= {}"),
        (constraint.below, "< {}"),
    ]
    words = [form.format(f"{limit:g}") for limit, form in parts if limit is not None]
    return " and ".join(words + [f"not {value!r}" for value in constraint.excluded])
