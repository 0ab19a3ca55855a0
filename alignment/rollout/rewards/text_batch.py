"""The text of a rollout, the input of reward functions and services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class TextBatch(NamedTuple):
    """A rollout as text, one entry per row."""

    inputs: list[Any]
    """Raw user text, dialogue or messages."""
    responses: list[str]
    """Decoded answers without special tokens."""
    labels: list[str | None]
    """The dataset's reference answers, None if it has none."""

    def select(self, rows: Sequence[int]) -> TextBatch:
        """Return the given rows."""
        return TextBatch(*([column[i] for i in rows] for column in self))
