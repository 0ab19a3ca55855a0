"""How much responses repeat themselves, and how alike responses to different prompts are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def repeated_share(response: np.ndarray) -> float:
    """Return the share of the pairs of adjacent tokens of ``response`` that it has already had; 0 without pairs."""
    pairs = _pairs(response).tolist()
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def overlap(responses: Sequence[np.ndarray], group_ids: np.ndarray) -> float | None:
    """Return the mean Jaccard index of the token pairs of each response and of one to the next prompt.

    0: they share nothing; 1: the policy gives one answer to all prompts. ``group_ids`` [N] are equal for responses to
    one prompt, which are adjacent. None if there is one prompt only.
    """
    starts = np.flatnonzero(np.diff(group_ids, prepend=group_ids[0] - 1))
    if len(starts) < 2:
        return None
    ends = np.append(starts[1:], len(responses))
    sets = [set(_pairs(response).tolist()) or {tuple(response.tolist())} for response in responses]
    found = []
    for number, (first, last) in enumerate(zip(starts, ends, strict=True)):
        after = (number + 1) % len(starts)
        size = ends[after] - starts[after]
        for row in range(first, last):
            other = sets[starts[after] + (row - first) % size]
            found.append(len(sets[row] & other) / len(sets[row] | other))
    return float(np.mean(found))


def _pairs(response: np.ndarray) -> np.ndarray:
    """Return one number for each pair of adjacent tokens."""
    ids = np.asarray(response, np.int64)
    return ids[:-1] << 32 | ids[1:]
