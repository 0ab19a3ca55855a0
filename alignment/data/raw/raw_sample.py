"""Type checks of raw samples, whoever wrote the dataset."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignment.data.ledger import BROKEN_TEXT, NULL_FIELD, BadRow
from alignment.data.raw.conversation import check_messages, check_tools
from alignment.errors import DataError
from alignment.records import RawSample

_TEXTS = ("answer", "other_answer")
_FLAGS = ("better", "safer", "is_safe", "is_other_safe", "desirable")
_PLAIN = {"input": str, **dict.fromkeys(_TEXTS, str), **dict.fromkeys(_FLAGS, bool)}
"""Values of exactly these types, which are nearly all, need no further check."""
_SURROGATES = re.compile("[\\ud800-\\udfff]")
FIELDS = (
    "input",
    "answer",
    "other_answer",
    "dialogue",
    "messages",
    "tools",
    "margin",
    "attributes",
    "steps",
    "step_labels",
    *_FLAGS,
)


def check_sample(sample: Any, place: object) -> RawSample:
    """Return ``sample`` with plain Python values; a wrong type is a ``DataError`` naming ``place`` and the field.

    None is kept: ``better=None`` marks a tie, any other None a field without a value. Unknown fields are dropped. Text
    with a lone surrogate (half a character) is a ``BadRow``.
    """
    if not isinstance(sample, Mapping):
        raise DataError(f"{place}: a row must be a RawSample (dict), got {_shown(sample)}")
    checked = {}
    for field in FIELDS:
        if field in sample:
            value = sample[field]
            if value is not None and type(value) is not _PLAIN.get(field):
                value = _CHECKS[field](value, f"{place}: field {field!r}")
            if not _is_encodable(value):
                _refuse_broken_text(value, f"{place}: field {field!r}")
            checked[field] = value
    return checked


def require_fields(sample: RawSample, fields: Sequence[str], *, kind: str, place: object) -> None:
    """Refuse a sample that lacks a field its dataset kind needs; the message lists the fields present.

    A null field is a ``BadRow``, except ``better``, where null marks a tie.
    """
    missing = [field for field in fields if field not in sample]
    if missing:
        raise DataError(
            f"{place}: missing {', '.join(map(repr, missing))}, which a {kind} dataset needs "
            f"(fields present: {', '.join(given_fields(sample)) or 'none'})"
        )
    nulls = [field for field in fields if field != "better" and sample[field] is None]
    if nulls:
        raise BadRow(NULL_FIELD, f"{place}: {', '.join(map(repr, nulls))} is null, which a {kind} dataset needs")


def given_fields(sample: RawSample) -> list[str]:
    """Return the fields that have a value, and ``better``, for which null is one."""
    return [field for field, value in sample.items() if value is not None or field == "better"]


def _check_text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place} must be a string, got {_shown(value)}")
    return str(value)


def _is_encodable(value: Any) -> bool:
    """Tell whether no text in ``value`` has a lone surrogate (quick for ASCII, as most text is)."""
    if isinstance(value, str):
        return value.isascii() or not _SURROGATES.search(value)
    if isinstance(value, Mapping):
        return all(map(_is_encodable, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_is_encodable, value))


def _refuse_broken_text(value: Any, place: str) -> None:
    half = _SURROGATES.search(json.dumps(value, ensure_ascii=False, default=repr))
    assert half is not None
    raise BadRow(BROKEN_TEXT, f"{place} holds half a character ({ascii(half[0])[1:-1]}, a lone surrogate)")


def _check_flag(value: Any, place: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise DataError(f"{place} must be true or false, got {_shown(value)}")
    return bool(value)


def _check_number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        raise DataError(f"{place} must be a finite number, got {_shown(value)}")
    return float(value)


def _check_attributes(value: Any, place: str) -> list[float | None]:
    """Return a list of numbers; a missing one may be None or NaN."""
    if not isinstance(value, (list, tuple, np.ndarray)) or not len(value):
        raise DataError(f"{place} must be a list of numbers, got {_shown(value)}")
    known = (None if item is None or item != item else item for item in value)
    return [None if item is None else _check_number(item, f"{place}, number {i}") for i, item in enumerate(known)]


def _check_labels(value: Any, place: str) -> list[Any]:
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise DataError(f"{place} must be a list with a label for each step, got {_shown(value)}")
    return [item.item() if isinstance(item, np.generic) else item for item in value]


def _check_turns(value: Any, place: str) -> list[str]:
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{place} must be a list of strings, got {_shown(value)}")
    return [_check_text(turn, f"{place}, turn {number}") for number, turn in enumerate(value)]


def _check_input(value: Any, place: str) -> str | list[str] | list[dict[str, Any]]:
    if isinstance(value, str):
        return str(value)
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{place} must be a string, a list of strings or a list of messages, got {_shown(value)}")
    if value and isinstance(value[0], Mapping):
        return _check_question(value, place)
    turns = _check_turns(value, place)
    if len(turns) % 2 == 0:
        raise DataError(f"{place} must hold an odd number of turns (user first and last), got {len(turns)}")
    return turns


def _check_question(value: Any, place: str) -> list[dict[str, Any]]:
    messages = check_messages(value, place)
    if messages[-1]["role"] not in ("user", "tool"):
        raise DataError(f"{place} must end with a turn of the user or of a tool, got {messages[-1]['role']!r}")
    return messages


def _check_dialogue(value: Any, place: str) -> list[str]:
    turns = _check_turns(value, place)
    if not turns or len(turns) % 2:
        raise DataError(f"{place} must hold user and assistant turns in pairs, got {len(turns)} turns")
    return turns


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


_CHECKS = {
    "input": _check_input,
    "dialogue": _check_dialogue,
    "messages": check_messages,
    "tools": check_tools,
    "margin": _check_number,
    "attributes": _check_attributes,
    "steps": _check_turns,
    "step_labels": _check_labels,
    **dict.fromkeys(_TEXTS, _check_text),
    **dict.fromkeys(_FLAGS, _check_flag),
}
