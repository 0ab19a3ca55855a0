"""Divide the rows of an update into micro-batches: by number, or by a token budget balanced over the processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignment.errors import DataError


@dataclass(frozen=True)
class Families:
    """Which of N rows begin with the same tokens."""

    numbers: Sequence[int]
    """[N] rows with the same number belong together."""
    shared: np.ndarray
    """[N] tokens that a row shares with any other of its family that shares as well."""

    @classmethod
    def alone(cls, num_rows: int) -> Families:
        """Return families of one row each."""
        return cls(range(num_rows), np.zeros(num_rows, np.int64))

    def count(self, sizes: np.ndarray, rows: Sequence[int]) -> int:
        """Return the tokens of ``rows`` of one family, what they share counted once; never fewer than there are.

        Whichever stands first, at most one row that could share finds nobody before it.
        """
        shared = self.shared[rows]
        return int(sizes[rows].sum() - shared.sum() + shared.max(initial=0))

    def pieces(self, sizes: np.ndarray, most: int) -> list[list[int]]:
        """Return the rows of each family, cut to ``most`` tokens."""
        found: dict[int, list[list[int]]] = {}
        for row, number in enumerate(self.numbers):
            pieces = found.setdefault(int(number), [[]])
            if pieces[-1] and self.count(sizes, [*pieces[-1], row]) > most:
                pieces.append([])
            pieces[-1].append(row)
        return [piece for pieces in found.values() for piece in pieces]


@dataclass(frozen=True, kw_only=True)
class MicroBatches:
    """How the rows of an update are divided. Which rows an update has does not depend on it."""

    rows: int
    """Rows per micro-batch if there is no token budget."""
    max_tokens: int | None = None
    """The most real tokens of a micro-batch, shared ones counted once; None: no budget."""
    ranks: int = 1
    """Processes that run different micro-batches; each takes an equal share of the list (``parallel.shares``)."""

    def divide(self, sizes: Sequence[int], families: Families | None = None) -> list[list[int]]:
        """Return the row numbers of each micro-batch, for rows with the token counts ``sizes``.

        With a budget, all processes get the same number of micro-batches if there are enough rows, as few as possible,
        and about the same number of tokens; rows of one family stay together where they fit, and the tokens that they
        share count once. The result depends only on the arguments.
        """
        if self.max_tokens is None:
            return [list(range(i, min(i + self.rows, len(sizes)))) for i in range(0, len(sizes), self.rows)]
        self.check(sizes)
        sizes = np.asarray(sizes)
        families = families or Families.alone(len(sizes))
        items = families.pieces(sizes, self.max_tokens)
        if len(items) < self.ranks:
            items = [[row] for row in range(len(sizes))]
        counted = np.array([families.count(sizes, item) for item in items])
        filled = self._fill(counted)
        groups = [sorted(row for number in group for row in items[number]) for group in filled]
        return _share_out(groups, np.array([counted[group].sum() for group in filled]), self.ranks)

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


def _share_out(groups: list[list[int]], totals: np.ndarray, ranks: int) -> list[list[int]]:
    """Order ``groups`` so that equal contiguous shares of the list have about equal sums of their ``totals``."""
    if len(groups) % ranks:
        return groups
    shares = _balance(totals, ranks, most=len(groups) // ranks)
    return [groups[number] for share in shares for number in share]
