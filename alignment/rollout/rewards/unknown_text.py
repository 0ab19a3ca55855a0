"""Notice text that the tokenizer of a model which scores does not know: to the model such texts are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from alignment.telemetry import log


class UnknownText:
    """Warns, once, when a model reads unknown tokens."""

    def __init__(self, unknown: int | None, name: str) -> None:
        """``unknown`` is the id of the unknown token (None: the tokenizer knows every text); ``name`` is the model."""
        self._unknown = unknown
        self._name = name
        self._told = False

    def look(self, rows: Sequence[np.ndarray], show: Callable[[int], str]) -> None:
        """Look at the ids of ``rows``; ``show`` returns the text of a row."""
        if self._unknown is None or self._told:
            return
        counts = [int((ids == self._unknown).sum()) for ids in rows]
        if not any(counts):
            return
        self._told = True
        affected, total = sum(map(bool, counts)), sum(map(len, rows))
        example = show(next(row for row, count in enumerate(counts) if count))
        log.warn(
            f"the {self._name} does not know all the text of {affected} of {len(rows)} rows that it scores "
            f"({sum(counts) / total:.1%} of its tokens are unknown ones), for example {example!r:.160}: it cannot tell "
            "such texts apart, and its scores of them say little"
        )
