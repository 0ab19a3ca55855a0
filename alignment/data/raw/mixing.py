"""Select and order the rows of a mixture: pure functions of sizes, proportions and a seed.

The order equals that of safe-rlhf (golden case ``dataset_mix``), so runs can be compared row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from alignment.errors import DataError


def count_rows(size: int, proportion: float | Fraction) -> int:
    """Return how many rows to take from ``size``: ``round(size * proportion)``, or N for the exact count ``N/-1``."""
    if isinstance(proportion, Fraction) and proportion < 0:
        return int(-proportion)
    return round(size * float(proportion))


def select_rows(sizes: Sequence[int], proportions: Sequence[float | Fraction], *, seed: int) -> list[np.ndarray]:
    """Return one int64 array of row indices per dataset.

    Whole passes come first, in row order; the remainder is drawn without replacement from the dataset's own child of
    ``SeedSequence(seed)`` and is not sorted. Sizes must be positive.
    """
    children = np.random.SeedSequence(seed).spawn(len(sizes))
    return [
        _select(size, count_rows(size, proportion), np.random.default_rng(child))
        for size, proportion, child in zip(sizes, proportions, children, strict=True)
    ]


def _select(size: int, count: int, generator: np.random.Generator) -> np.ndarray:
    assert size > 0
    passes, remainder = divmod(count, size)
    parts = [np.arange(size)] * passes
    if remainder:
        parts.append(generator.choice(size, remainder, replace=False))
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def split_rows(size: int, split_ratio: float, *, shuffle: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (train, test) row indices; the test part is the last ``round(size * split_ratio)`` of the order.

    The test part is empty if the ratio rounds to 0 rows.
    """
    if not 0.0 <= split_ratio <= 1.0:
        raise DataError(f"split ratio {split_ratio} is not between 0 and 1")
    order = np.arange(size)
    if shuffle:
        np.random.default_rng(seed).shuffle(order)
    num_train = size - round(size * split_ratio)
    return order[:num_train], order[num_train:]
