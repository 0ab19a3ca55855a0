"""One row of the table of layouts: the columns that tell it, the columns it reads, and how it converts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from alignment.records import RawSample

Row = Mapping[str, Any]
Convert = Callable[[Row, object], RawSample]
"""Takes a row and its place, whose ``str`` begins every message about the row."""
Gather = Callable[[Sequence[Row]], list[tuple[int, Row]]]


@dataclass(frozen=True)
class RowLayout:
    """A known layout of rows."""

    name: str
    needs: tuple[str, ...]
    """Columns that must all be there."""
    convert: Convert
    also: tuple[str, ...] = ()
    """Columns that are read, or say the same again, when they are there."""
    samples: Callable[[Row, object], list[RawSample]] | None = None
    """For rows that hold several samples: gives all of them; ``convert`` is not called."""
    gather: Gather | None = None
    """For samples that take several rows: gives (number of the first row, the row to convert) for each."""
    says: str = ""
    """What the line in the log adds to the name: how pairs are made, say."""

    @cached_property
    def reads(self) -> frozenset[str]:
        """Every column that is used."""
        return frozenset((*self.needs, *self.also))
