"""A table of a report, given by whoever has the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from alignment.telemetry.tables import format_number


class ReportTable(NamedTuple):
    """A table with a title and a line that says what it shows."""

    title: str
    lead: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    """Numbers, texts, or None for an empty cell."""

    @property
    def cells(self) -> list[list[tuple[str, bool]]]:
        """The text of every cell, and whether it is a number."""
        return [[_cell(value) for value in row] for row in self.rows]


def _cell(value: Any) -> tuple[str, bool]:
    if value is None:
        return "", False
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (format_number(value) if is_number else str(value)), is_number
