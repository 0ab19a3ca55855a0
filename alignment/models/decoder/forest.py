"""The tokens of a batch as a forest: rows that begin with the same tokens share them.

A token's hidden states depend only on the tokens before it, so a prompt is computed once for all its answers, forward
and backward; the gradient of a shared token is the sum over its rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from alignment.ops.shared_tokens import place_grid

_wanted = False

LEAST_SHARE = 8
"""A row shares tokens only if they are at least this part of it (an eighth): attention runs rows that share tokens one
after the other."""


def share_tokens(enabled: bool) -> None:
    """Set whether rows of this process's batches share the tokens they begin with; the default is not to."""
    global _wanted
    _wanted = enabled
    PASSED.reset()


def sharing_tokens() -> bool:
    """Return whether rows share the tokens they begin with."""
    return _wanted


def shareable(prefixes: np.ndarray, longest: np.ndarray) -> np.ndarray:
    """Return how many of their first ``prefixes`` [n] tokens rows of up to ``longest`` [n] share with their likes."""
    return np.where(prefixes * LEAST_SHARE >= longest, prefixes, 0)


class PassedTokens:
    """Counts the tokens of this process's forward passes."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from now on."""
        self.given = self.computed = 0
        self._obstacles: dict[str, None] = {}

    def add(self, forest: Forest, *, obstacle: str | None = None) -> None:
        """Count a pass of rows that may share tokens; ``obstacle``: why those of this model share none."""
        if not _wanted:
            return
        self.given += forest.num_tokens + forest.num_saved
        self.computed += forest.num_tokens
        if obstacle is not None:
            self._obstacles[obstacle] = None

    def __str__(self) -> str:
        saved, why = 1 - self.computed / max(self.given, 1), "".join(f"; {why}" for why in self._obstacles)
        return f"{self.computed:,} of {self.given:,} tokens computed ({saved:.0%} shared by rows that begin alike{why})"


PASSED = PassedTokens()
"""Of this process, since ``share_tokens`` was called."""


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """The M tokens of n right-padded rows [n, S], packed without padding; its arrays are read-only."""

    lengths: np.ndarray
    """[n] tokens of each row, in packed order."""
    shared: np.ndarray | None
    """[n] how many leading tokens each row shares with the one packed before it; None: none are shared."""
    cells: np.ndarray
    """[M] the cell of each packed token in the flattened rows."""
    places: np.ndarray
    """[n, S] the place of each token among the M; 0 on padding."""

    @classmethod
    def plain(cls, lengths: np.ndarray, width: int) -> Forest:
        """Pack rows of ``lengths`` [n], padded to ``width``, without sharing."""
        real = np.arange(width) < lengths[:, None]
        places = (np.cumsum(real.reshape(-1)) - 1).reshape(real.shape) * real
        return cls(lengths, None, np.flatnonzero(real), places)

    @classmethod
    def grow(cls, ids: np.ndarray, lengths: np.ndarray, kinds: np.ndarray | None = None) -> Forest:
        """Pack rows ``ids`` [n, S] of ``lengths`` [n] so that equal beginnings stand once, where that saves enough.

        Only rows of one of ``kinds`` [n] share (None: all are of one).
        """
        kinds = np.zeros_like(lengths) if kinds is None else kinds
        contents = [(kind, row[:length].tobytes()) for kind, row, length in zip(kinds, ids, lengths, strict=True)]
        order = np.array(sorted(range(len(ids)), key=contents.__getitem__), np.int64)
        shared = _equal_beginnings(ids[order], lengths[order])
        shared[1:][np.diff(kinds[order].astype(np.int8)) != 0] = 0
        if not shared.any():
            return cls.plain(lengths, ids.shape[1])
        width, lengths = ids.shape[1], lengths[order]
        places = np.empty(ids.shape, np.int64)
        places[order] = place_grid(lengths, shared, width)
        positions = np.arange(width)
        is_own = (positions >= shared[:, None]) & (positions < lengths[:, None])
        return cls(lengths, shared, (order[:, None] * width + positions)[is_own], places)

    @property
    def num_tokens(self) -> int:
        """M, the tokens that are computed."""
        return len(self.cells)

    @property
    def num_saved(self) -> int:
        """How many tokens of the rows need not be computed."""
        return 0 if self.shared is None else int(self.shared.sum())

    @property
    def origins(self) -> np.ndarray:
        """[n] the place that position 0 of each packed row would have if its tokens stood together."""
        shared = 0 if self.shared is None else self.shared
        return np.cumsum(self.lengths - shared) - self.lengths

    def owners(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (packed row [T] that owns each of the tokens at ``places`` [T], position [T] there)."""
        shared = np.zeros_like(self.lengths) if self.shared is None else self.shared
        origins = self.origins
        rows = np.searchsorted(origins + shared, places, side="right") - 1
        return rows, places - origins[rows]


def pack(ids: np.ndarray, lengths: np.ndarray, kinds: np.ndarray | None = None) -> Forest:
    """Pack rows ``ids`` [n, S] of ``lengths`` [n], sharing what ``share_tokens`` allows; for ``kinds`` see ``grow``."""
    if not _wanted or len(ids) < 2:
        return Forest.plain(lengths, ids.shape[1])
    kinds = np.zeros_like(lengths) if kinds is None else kinds
    return _grow_once(*(np.ascontiguousarray(x, np.int64).tobytes() for x in (ids, lengths, kinds)))


@lru_cache(maxsize=8)
def _grow_once(ids: bytes, lengths: bytes, kinds: bytes) -> Forest:
    """Return the forest of int64 rows; the models of a run read the same rows one after the other."""
    counts = np.frombuffer(lengths, np.int64)
    rows = np.frombuffer(ids, np.int64).reshape([len(counts), -1])
    return Forest.grow(rows, counts, np.frombuffer(kinds, np.int64))


def _equal_beginnings(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return how many leading tokens [n] each row has in common with the one before; 0 where that saves little."""
    width = ids.shape[1]
    common = np.zeros_like(lengths)
    equal = (ids[1:] == ids[:-1]) & (np.arange(width) < np.minimum(lengths[1:], lengths[:-1])[:, None])
    common[1:] = np.where(equal.all(axis=1), width, equal.argmin(axis=1))
    return np.where(common * LEAST_SHARE >= lengths, common, 0)
