"""Sequences that share leading tokens, packed so that each token stands once.

Sequence j shares its first ``shared[j]`` tokens with sequence j - 1, as that one sees them, and only its own tokens
follow. Example: lengths [4, 3] and shared [0, 2] pack 5 tokens; the sequences are 0 1 2 3 and 0 1 4.
"""

from __future__ import annotations

import numpy as np


def places_of(lengths: np.ndarray, shared: np.ndarray) -> list[np.ndarray]:
    """Return for each of n sequences the places [length] int64 of its tokens among the M packed ones."""
    starts = np.cumsum(lengths - shared) - (lengths - shared)
    rows: list[np.ndarray] = []
    for start, length, count in zip(starts, lengths, shared, strict=True):
        own = np.arange(start, start + length - count, dtype=np.int64)
        rows.append(np.concatenate([rows[-1][:count], own]) if count else own)
    return rows


def own_places(lengths: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Return [M] int64: where each packed token stands when the n sequences follow each other whole."""
    starts = np.cumsum(lengths) - lengths
    spans = zip(starts + shared, starts + lengths, strict=True)
    return np.concatenate([np.arange(first, end, dtype=np.int64) for first, end in spans])
