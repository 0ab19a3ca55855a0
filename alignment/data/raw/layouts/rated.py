"""Rows that hold several answers with ratings, read as one sample per answer where attributes are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignment.data.raw.layouts.layout import Row, RowLayout
from alignment.data.raw.layouts.samples import number_of, prompt_of
from alignment.errors import DataError
from alignment.records import RawSample

_NO_RATING = ("N/A", "")


def rated_layout(name: str, attributes: Sequence[str]) -> RowLayout | None:
    """Return how rows of the layout ``name`` give an answer with its ``attributes`` each; None if they cannot."""
    if name != "UltraFeedback":
        return None
    says = "a sample for every completion, with its ratings"
    needs = ("instruction", "completions")
    samples = _completions(tuple(attributes))
    return RowLayout(name, needs, lambda row, place: samples(row, place)[0], samples=samples, says=says)


def _completions(attributes: tuple[str, ...]) -> Callable[[Row, object], list[RawSample]]:
    """UltraFeedback: an attribute is a rating in ``annotations``, or a number of the completion such as
    ``overall_score``.
    """

    def samples(row: Row, place: object) -> list[RawSample]:
        items = row["completions"]
        if not isinstance(items, list) or not all(isinstance(i, Mapping) and "response" in i for i in items):
            raise DataError(f"{place}: column 'completions' must hold objects with 'response', got {items!r:.80}")
        found = []
        for item in items:
            given = {**item, **(item.get("annotations") or {})}
            values = [_rating(given.get(name), place) for name in attributes]
            asked = prompt_of(row["instruction"], place)
            found.append(RawSample(input=asked, answer=item["response"], attributes=values))
        return found

    return samples


def _rating(value: Any, place: object) -> float | None:
    """Return a rating: a number, its text, or an object with ``Rating``; None for a missing one."""
    value = value.get("Rating") if isinstance(value, Mapping) else value
    if value is None or value in _NO_RATING:
        return None
    try:
        return float(value) if isinstance(value, str) else number_of(value, place)
    except ValueError as error:
        raise DataError(f"{place}: rating {value!r:.40} must be a number or N/A") from error
