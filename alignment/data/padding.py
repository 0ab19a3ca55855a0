"""Pad token ids of different lengths; masks come from lengths, never from comparing ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pad_rows(rows: Sequence[np.ndarray], *, value: int, left: bool = False) -> np.ndarray:
    """Return [n, W] int64 with W the longest row, filled with ``value`` on the right, or on the left if ``left``."""
    width = max((len(row) for row in rows), default=0)
    padded = np.full((len(rows), width), value, np.int64)
    for line, row in zip(padded, rows, strict=True):
        start = width - len(row) if left else 0
        line[start : start + len(row)] = row
    return padded


def mask_rows(rows: Sequence[np.ndarray], *, left: bool = False) -> np.ndarray:
    """Return [n, W] bool, True on real tokens (including EOS, whatever the padding id is)."""
    ones = [np.ones(len(row), np.int64) for row in rows]
    return pad_rows(ones, value=0, left=left).astype(bool)


def row_lengths(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return [n] int64, the number of real tokens of each row."""
    return np.array([len(row) for row in rows], np.int64)
