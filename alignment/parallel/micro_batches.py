"""Divide the rows of an update into micro-batches: by number, or by a token budget balanced over the processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignment.errors import DataError


@dataclass(frozen=True, kw_only=True)
class MicroBatches:
    """How the rows of an update are divided. Which rows an update has does not depend on it."""

    rows: int
    """Rows per micro-batch if there is no token budget."""
    max_tokens: int | None = None
    """The most real tokens of a micro-batch; None: no budget."""
    ranks: int = 1
    """Processes that run different micro-batches; each takes an equal share of the list (``parallel.shares``)."""

    def divide(self, sizes: Sequence[int], together: Sequence[int] | None = None) -> list[list[int]]:
        """Return the row numbers of each micro-batch, for rows with the token counts ``sizes``.

        With a budget, all processes get the same number of micro-batches if there are enough rows, as few as possible,
        and about the same number of tokens; rows with the same number in ``together`` stay together where they fit.
        The result depends only on the arguments.
        """
        if self.max_tokens is None:
            return [list(range(i, min(i + self.rows, len(sizes)))) for i in range(0, len(sizes), self.rows)]
        self.check(sizes)
        sizes = np.asarray(sizes)
        items = _families(sizes, together, self.max_tokens)
        if len(items) < self.ranks:
            items = _families(sizes, None, self.max_tokens)
        filled = self._fill(np.array([sizes[item].sum() for item in items]))
        groups = [sorted(row for number in group for row in items[number]) for group in filled]
        return _share_out(groups, sizes, self.ranks)

    def describe(self) -> str:
        """Return the size of a micro-batch in words."""
        return (
            f"{self.rows} per micro-batch"
            if self.max_tokens is None
            else (f"micro-batches of up to {self.max_tokens} tokens")
        )

    def check(self, sizes: Sequence[int], what: str = "row") -> None:
        """Raise DataError if one of the rows, called ``what``, is over the budget."""
        if self.max_tokens is None or not len(sizes) or max(sizes) <= self.max_tokens:
            return
        longest = int(np.argmax(sizes))
        raise DataError(
            f"max_tokens_per_batch={self.max_tokens}: {what} {longest} (counted from 0) has {sizes[longest]} tokens, "
            f"the most of all, and a row is never split. Give {sizes[longest]} or more, or lower max_length"
        )

    def _fill(self, sizes: np.ndarray) -> list[list[int]]:
        """Return the fewest groups within the budget that longest-first placement finds, a multiple of ``ranks``."""
        lone = int((2 * sizes > self.max_tokens).sum())
        fewest = max(1, lone, -(-int(sizes.sum()) // self.max_tokens))
        for number in range(-(-fewest // self.ranks) * self.ranks, len(sizes), self.ranks):
            groups = _balance(sizes, number)
            if max(int(sizes[group].sum()) for group in groups) <= self.max_tokens:
                return groups
        return [[row] for row in range(len(sizes))]


def _families(sizes: np.ndarray, together: Sequence[int] | None, most: int) -> list[list[int]]:
    """Return the rows with the same number in ``together`` (None: each row alone), cut to ``most`` tokens."""
    if together is None:
        return [[row] for row in range(len(sizes))]
    families: dict[int, list[list[int]]] = {}
    for row, number in enumerate(together):
        pieces = families.setdefault(int(number), [[]])
        if pieces[-1] and sizes[pieces[-1]].sum() + sizes[row] > most:
            pieces.append([])
        pieces[-1].append(row)
    return [piece for pieces in families.values() for piece in pieces]


def _balance(sizes: np.ndarray, number: int, most: int | None = None) -> list[list[int]]:
    """Divide items into ``number`` groups of at most ``most`` items with about equal sums of ``sizes``.

    The largest item comes first and goes to the group with the smallest sum; every group has an item if enough exist.
    """
    groups: list[list[int]] = [[] for _ in range(number)]
    sums = np.zeros(number, np.int64)
    closed = np.iinfo(np.int64).max
    for item in np.argsort(-sizes, kind="stable").tolist():
        group = int(sums.argmin())
        groups[group].append(item)
        sums[group] = closed if len(groups[group]) == most else sums[group] + sizes[item]
    return [sorted(group) for group in groups]


def _share_out(groups: list[list[int]], sizes: np.ndarray, ranks: int) -> list[list[int]]:
    """Order ``groups`` so that equal contiguous shares of the list have about equal sums of ``sizes``."""
    if len(groups) % ranks:
        return groups
    totals = np.array([sizes[group].sum() for group in groups])
    shares = _balance(totals, ranks, most=len(groups) // ranks)
    return [groups[number] for share in shares for number in share]
