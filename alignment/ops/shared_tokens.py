"""Sequences that share leading tokens, packed so that each token stands once.

Sequence j shares its first ``shared[j]`` tokens with sequence j - 1, as that one sees them, and only its own tokens
follow. Example: lengths [4, 3] and shared [0, 2] pack 5 tokens; the sequences are 0 1 2 3 and 0 1 4.
"""

from __future__ import annotations

import numpy as np


def place_grid(lengths: np.ndarray, shared: np.ndarray, width: int) -> np.ndarray:
    """Return [n, ``width``] int64: the place of each token of n sequences among the M packed ones; 0 on padding."""
    positions, rows = np.arange(width, dtype=np.int64), np.arange(len(lengths), dtype=np.int64)[:, None]
    owners = np.maximum.accumulate(np.where(positions >= shared[:, None], rows, 0), axis=0)
    origins = np.cumsum(lengths - shared) - lengths
    return np.where(positions < lengths[:, None], origins[owners] + positions, 0)


def places_of(lengths: np.ndarray, shared: np.ndarray) -> list[np.ndarray]:
    """Return for each of n sequences the places [length] int64 of its tokens among the M packed ones."""
    grid = place_grid(lengths, shared, int(lengths.max(initial=0)))
    return [places[:length] for places, length in zip(grid, lengths, strict=True)]


def own_places(lengths: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Return [M] int64: where each packed token stands when the n sequences follow each other whole."""
    starts = np.cumsum(lengths) - lengths
    own = lengths - shared
    before = np.cumsum(own) - own
    return np.arange(own.sum(), dtype=np.int64) + np.repeat(starts + shared - before, own)
