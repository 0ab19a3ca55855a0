"""Answers to prompts, read from rows of the usual layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from alignment.data.raw.conversation import conversation
from alignment.data.raw.layouts.recognise import add_context
from alignment.data.raw.layouts.samples import prompt_of
from alignment.data.raw.raw_sample import check_sample
from alignment.errors import DataError
from alignment.records import RawSample

_LISTS = (("prompt", "responses"),)
_SINGLES = (("prompt", "response"), ("input", "output"))
_REASONS = ("stop", "length")


class AnsweredRow(NamedTuple):
    """A row with answers."""

    prompt: Any
    responses: list[str]
    label: str | None
    reasons: list[str]
    """``stop`` or ``length`` for each response."""
    is_list: bool
    """Whether the row has a list of responses."""


def read_answered(row: Mapping[str, Any], place: str) -> AnsweredRow:
    """Return the answers of a row; DataError if it has none."""
    names = next((names for names in (*_LISTS, *_SINGLES) if all(name in row for name in names)), None)
    if names is None:
        layouts = "; ".join(" and ".join(names) for names in (*_LISTS, *_SINGLES))
        raise DataError(f"{place}: no answers to score (read: {layouts})")
    given, is_list = row[names[1]], names in _LISTS
    responses = given if is_list else [given]
    if not isinstance(responses, list) or not responses or not all(isinstance(text, str) for text in responses):
        raise DataError(f"{place}: {names[1]} must be {'texts' if is_list else 'a text'}, got {given!r:.80}")
    for text in responses:
        check_sample({"answer": text}, place)
    reasons = row.get("finish_reasons") if is_list else None
    reasons = ["stop"] * len(responses) if reasons is None else reasons
    if not isinstance(reasons, list) or len(reasons) != len(responses) or not set(reasons) <= set(_REASONS):
        allowed = " or ".join(_REASONS)
        raise DataError(f"{place}: finish_reasons must say {allowed} for each response, got {reasons!r:.80}")
    return AnsweredRow(_asked(row, names[0], place), responses, row.get("label"), reasons, is_list)


def _asked(row: Mapping[str, Any], name: str, place: str) -> Any:
    """Return the prompt with its system message and tools, read as the datasets read it."""
    prompt = RawSample(input=prompt_of(row[name], f"{place}: {name}"))
    sample = check_sample(add_context(prompt, row, place), place)
    if not conversation(sample["input"]).messages[-1].get("content"):
        raise DataError(f"{place}: {name} is empty")
    tools = sample.get("tools")
    return sample["input"] if not tools else {"messages": [*conversation(sample["input"]).messages], "tools": tools}
