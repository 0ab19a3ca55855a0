"""What reward functions and reward services see of a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class TextBatch(NamedTuple):
    """A rollout as text; one entry a row."""

    inputs: list[Any]
    """Raw user text, dialogue or messages."""
    responses: list[str]
    """Decoded answers without special tokens."""
    labels: list[str | None]
    """Reference answers of the dataset, where it has them."""

    def select(self, rows: Sequence[int]) -> TextBatch:
        """Return the given rows."""
        return TextBatch(*([column[i] for i in rows] for column in self))
