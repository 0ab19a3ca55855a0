"""Prompts with scored answers, read from rows of the usual layouts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from alignment.errors import DataError

Row: TypeAlias = dict[str, Any]
Prompt: TypeAlias = str | list[Any]
"""A text, or messages."""

_LISTS = (("prompt", "responses", "rewards"), ("prompt", "responses", "scores"))
_SINGLES = (("prompt", "response", "reward"), ("input", "output", "reward"))
_LAYOUTS = (*_LISTS, *_SINGLES)
_BESIDE = ("system", "tools")


class Scored(NamedTuple):
    """A prompt with its answers."""

    prompt: Prompt
    responses: tuple[str, ...]
    rewards: tuple[float, ...]
    """The reward of each response."""
    place: str
    """Where it was read, for messages."""
    beside: Mapping[str, Any] = MappingProxyType({})
    """Its system message and tools, which every chosen row keeps."""

    @property
    def best(self) -> int:
        """Index of the first response with the highest reward."""
        return max(range(len(self.rewards)), key=self.rewards.__getitem__)

    @property
    def worst(self) -> int:
        """Index of the first response with the lowest reward."""
        return min(range(len(self.rewards)), key=self.rewards.__getitem__)


def read_scored(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Scored]:
    """Return the prompts of (place, row) in order of first appearance.

    A row has all answers of its prompt (``prompt``, ``responses``, ``rewards`` or ``scores``), or one answer
    (``prompt``, ``response``, ``reward``, or OpenRLHF's ``input``, ``output``, ``reward``); the latter are gathered by
    prompt. DataError for rows of another layout, of different lengths or with rewards that are no finite numbers.
    """
    found: list[Scored] = []
    gathered: dict[str, list[tuple[str, float]]] = {}
    first: dict[str, int] = {}
    for place, row in rows:
        names = next((names for names in _LAYOUTS if all(name in row for name in names)), None)
        if names is None:
            layouts = "; ".join(", ".join(names) for names in _LAYOUTS)
            raise DataError(f"{place}: no scored answers: it has the columns {', '.join(row)} (read: {layouts})")
        _refuse_broken_text(row, place)
        prompt, answers, rewards = (row[name] for name in names)
        _check_prompt(prompt, f"{place}: {names[0]}")
        beside = {name: row[name] for name in _BESIDE if row.get(name) is not None}
        if names in _LISTS:
            found.append(_scored(prompt, answers, rewards, place)._replace(beside=beside))
            continue
        key = json.dumps([prompt, beside], ensure_ascii=False, sort_keys=True)
        if key not in first:
            first[key] = len(found)
            found.append(Scored(prompt, (), (), place, beside))
        one = _scored(prompt, [answers], [rewards], place)
        gathered.setdefault(key, []).append((one.responses[0], one.rewards[0]))
    for key, position in first.items():
        responses, rewards = zip(*gathered[key], strict=True)
        found[position] = found[position]._replace(responses=responses, rewards=rewards)
    return found


def _refuse_broken_text(row: Mapping[str, Any], place: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise DataError(f"{place} holds half a character ({half}, a lone surrogate)") from None


def _check_prompt(prompt: Any, place: str) -> None:
    if not isinstance(prompt, (str, list)) or not prompt:
        raise DataError(f"{place} must be a text or messages, got {prompt!r:.80}")


def _scored(prompt: Prompt, responses: Any, rewards: Any, place: str) -> Scored:
    if not isinstance(responses, list) or not all(isinstance(text, str) for text in responses):
        raise DataError(f"{place}: responses must be texts, got {responses!r:.80}")
    if not isinstance(rewards, list) or len(rewards) != len(responses) or not responses:
        raise DataError(f"{place}: expected a reward for each of {len(responses)} responses, got {rewards!r:.80}")
    return Scored(prompt, tuple(responses), tuple(_number(value, place) for value in rewards), place)


def _number(value: Any, place: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"{place}: a reward must be a finite number, got {value!r:.40}")
    return number
