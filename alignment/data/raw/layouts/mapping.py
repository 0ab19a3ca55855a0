"""Columns named by the user: ``input_key=question`` and its relatives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alignment.data.raw.layouts.conversions import OWN_FIELDS
from alignment.data.raw.layouts.samples import (
    answered,
    compare,
    conversation_of,
    flag_of,
    number_of,
    pair_of,
    prompt_of,
)
from alignment.errors import DataError
from alignment.records import RawSample
from alignment.registry import near_matches

KEYS: Mapping[str, str] = {
    "input_key": "input",
    "prompt_key": "input",
    "output_key": "answer",
    "answer_key": "answer",
    "label_key": "label",
    "other_answer_key": "other_answer",
    "better_key": "better",
    "safer_key": "safer",
    "is_safe_key": "is_safe",
    "is_other_safe_key": "is_other_safe",
    "dialogue_key": "dialogue",
    "messages_key": "messages",
    "chosen_key": "chosen",
    "rejected_key": "rejected",
    "chosen_score_key": "chosen_score",
    "rejected_score_key": "rejected_score",
    "system_key": "system",
    "tools_key": "tools",
    "margin_key": "margin",
    "attributes_key": "attributes",
}
"""Argument to what the named column holds. ``label_key`` names the reference answer of a prompt, or, with a column of
answers, whether the answer is desirable."""

BESIDE = ("margin", "attributes")
"""Fields read from their columns beside any layout: naming them does not name the others."""

_USUAL = {"input": ("input", "src", "prompt", "question"), "answer": ("answer", "tgt")}
ANSWERS = ("answer", "response", "output", "completion", "solution", "target", "label")
"""Usual names of a column of answers."""
_TOGETHER = (("chosen", "rejected"), ("chosen_score", "rejected_score"))


def read_keys(keys: Mapping[str, Any], place: object) -> dict[str, str]:
    """Return field -> column for ``<field>_key`` arguments; null values are ignored."""
    columns: dict[str, str] = {}
    for key, name in keys.items():
        if key not in KEYS:
            raise DataError(f"{place}: unknown argument {key!r}{near_matches(key, KEYS)} (allowed: {', '.join(KEYS)})")
        if name is None:
            continue
        if not isinstance(name, str) or not name:
            raise DataError(f"{place}: {key} must be a column name, got {name!r}")
        if KEYS[key] in columns:
            raise DataError(f"{place}: {key} and another argument both name the column of the {KEYS[key]}")
        columns[KEYS[key]] = name
    _check_keys(columns, place)
    return columns


def map_row(row: Mapping[str, Any], columns: Mapping[str, str], place: object) -> tuple[RawSample, set[str]]:
    """Convert a row (without nulls) whose columns are named; return the sample and the columns read."""
    named = {what: row[name] for what, name in columns.items() if name in row}
    read = set(columns.values())
    others = [name for name in row if name not in read]
    usual = {what: _usual_column(others, what) for what in ("input", "answer", *OWN_FIELDS) if what not in named}
    if _is_pair(row, columns):
        usual = {"input": usual.get("input"), "chosen": "chosen", "rejected": "rejected"}
        named = {what: row[name] for what, name in usual.items() if name in row} | named
        return _pair(named, place), read | {name for name in usual.values() if name}
    if "messages" in columns:
        return conversation_of(named.get("messages"), f"{place}: column {columns['messages']!r}"), read
    if "dialogue" in columns:
        return RawSample(dialogue=named.get("dialogue")), read
    read |= {name for name in usual.values() if name}
    values = {what: row[name] for what, name in usual.items() if name} | named
    return _fields(values, columns, place), read


def _fields(values: dict[str, Any], columns: Mapping[str, str], place: object) -> RawSample:
    """Return a sample of fields in separate columns."""
    label = values.pop("label", None)
    is_flag = "answer" in columns or isinstance(label, bool)
    if label is not None and is_flag:
        values["desirable"] = flag_of(label, f"{place}: column {columns['label']!r}")
    elif label is not None:
        values["answer"] = label
    given, answer = values.pop("input", None), values.pop("answer", None)
    _check_apart(given, answer, place)
    sample = RawSample(input=prompt_of(given, place)) if answer is None else answered(given, answer, place)
    kept = {name: value for name, value in values.items() if name in OWN_FIELDS}
    return RawSample(**{name: value for name, value in sample.items() if value is not None}, **kept)


def _is_pair(row: Mapping[str, Any], columns: Mapping[str, str]) -> bool:
    """Tell whether the row is a pair: its columns are named, or exist while the named columns hold no answer."""
    if "chosen" in columns or "chosen_score" in columns:
        return True
    others = {"answer", "label", "messages", "dialogue"} & columns.keys()
    return not others and {"chosen", "rejected"} <= row.keys() - set(columns.values())


def _pair(named: Mapping[str, Any], place: object) -> RawSample:
    sample = pair_of(named.get("input"), named.get("chosen"), named.get("rejected"), place)
    if "chosen_score" in named or "rejected_score" in named:
        scores = named.get("chosen_score"), named.get("rejected_score")
        sample["better"] = compare(*scores, place)
        gap = abs(number_of(scores[0], place) - number_of(scores[1], place))
        sample["margin"] = gap if math.isfinite(gap) else None
    return sample


def _check_apart(prompt: Any, answer: Any, place: object) -> None:
    """Refuse a prompt that ends with its answer."""
    if not isinstance(prompt, str) or not isinstance(answer, str) or len(answer.strip()) < 16:
        return
    if prompt.rstrip().endswith(answer.strip()):
        raise DataError(f"{place}: the prompt contains the answer (both end with {answer.strip()[-40:]!r})")


def _check_keys(columns: Mapping[str, str], place: object) -> None:
    for first, second in _TOGETHER:
        if (first in columns) != (second in columns):
            raise DataError(f"{place}: {first}_key and {second}_key must be given together")
    for what in ("answer", "other_answer", "label", "chosen", "rejected"):
        if columns.get(what) is not None and columns[what] == columns.get("input"):
            raise DataError(
                f"{place}: column {columns[what]!r} is named both as the prompt and as the {what}; a prompt must not "
                "contain its answer"
            )


def _usual_column(columns: Sequence[str], what: str) -> str | None:
    """Return the column that usually holds a field; for an answer also the only one of ``ANSWERS``."""
    found = [name for name in _USUAL.get(what, (what,)) if name in columns]
    others = [name for name in ANSWERS if name in columns] if what == "answer" else []
    return found[0] if found else others[0] if len(others) == 1 else None
