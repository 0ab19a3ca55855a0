"""An entry of the table of layouts: the columns that identify it, the columns it reads, and its conversion."""

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


class RowPlace:
    """Where a row comes from; described only when a message needs it."""

    __slots__ = ("_describe", "_index")

    def __init__(self, describe: Callable[[int], str], index: int) -> None:
        self._describe, self._index = describe, index

    def __str__(self) -> str:
        return self._describe(self._index)


@dataclass(frozen=True)
class RowLayout:
    """A known layout of rows."""

    name: str
    needs: tuple[str, ...]
    """Required columns."""
    convert: Convert
    also: tuple[str, ...] = ()
    """Optional columns that are read, or only repeat what others say."""
    samples: Callable[[Row, object], list[RawSample]] | None = None
    """For rows that hold several samples: returns them all; replaces ``convert``."""
    gather: Gather | None = None
    """For samples made of several rows: returns (index of the first row, combined row) for each."""
    says: str = ""
    """What the log line adds to the name, such as how pairs are made."""

    @cached_property
    def reads(self) -> frozenset[str]:
        """All required and optional columns."""
        return frozenset((*self.needs, *self.also))
