"""How much responses repeat themselves, and how alike responses to different prompts are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def repeated_share(response: np.ndarray) -> float:
    """Return the share of the pairs of adjacent tokens of ``response`` that it has already had; 0 without pairs."""
    (pairs,) = _pairs([response])
    return _repeated(pairs)


def repetition(responses: Sequence[np.ndarray]) -> float:
    """Return the mean of ``repeated_share`` over ``responses``."""
    return float(np.mean([_repeated(pairs) for pairs in _pairs(responses)]))


def overlap(responses: Sequence[np.ndarray], group_ids: np.ndarray) -> float | None:
    """Return the mean Jaccard index of the token pairs of each response and of one to the next prompt.

    0: they share nothing; 1: the policy gives one answer to all prompts. ``group_ids`` [N] are equal for responses to
    one prompt, which are adjacent. None if there is one prompt only.
    """
    starts = np.flatnonzero(np.diff(group_ids, prepend=group_ids[0] - 1))
    if len(starts) < 2:
        return None
    ends = np.append(starts[1:], len(responses))
    sets = [set(p) or {tuple(response.tolist())} for p, response in zip(_pairs(responses), responses, strict=True)]
    found = []
    for number, (first, last) in enumerate(zip(starts, ends, strict=True)):
        after = (number + 1) % len(starts)
        size = ends[after] - starts[after]
        for row in range(first, last):
            other = sets[starts[after] + (row - first) % size]
            found.append(len(sets[row] & other) / len(sets[row] | other))
    return float(np.mean(found))


def _repeated(pairs: list[int]) -> float:
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def _pairs(responses: Sequence[np.ndarray]) -> list[list[int]]:
    """Return one number for each pair of adjacent tokens of each response."""
    ids = np.concatenate(responses).astype(np.int64)
    pairs = (ids[:-1] << 32 | ids[1:]).tolist()
    ends = np.cumsum([len(response) for response in responses]).tolist()
    return [pairs[start : max(start, end - 1)] for start, end in zip([0, *ends], ends, strict=False)]
