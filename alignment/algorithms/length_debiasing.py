"""What a token of an answer is worth to a score: the number that makes the score independent of length.

Legend: n answers. Subtracting penalty * length leaves a correlation of zero with the length: Pearson's has a closed
form, Spearman's (Wang et al. 2024, ArmoRM, against a verbosity score) falls step by step as the penalty grows.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Correlation = Literal["spearman", "pearson"]
_HALVINGS = 200
"""Enough to reach neighbouring float64 numbers."""


def length_penalty(scores: np.ndarray, lengths: np.ndarray, correlation: Correlation) -> float:
    """Return the penalty per token after which ``scores`` [n] have a ``correlation`` of zero with ``lengths`` [n].

    Spearman's correlation is a step function of the penalty: of the values beside its jump over zero the penalty nearer
    to zero is returned. Neither scores nor lengths may be constant.
    """
    scores, lengths = np.asarray(scores, np.float64), np.asarray(lengths, np.float64)
    centred = lengths - lengths.mean()
    closed = float((scores * centred).sum() / (centred**2).sum())
    if correlation == "pearson":
        return closed
    reach = float(np.ptp(scores) + 1.0)  # lengths differ by 1 or more: the order is then that of the lengths
    low, high = -reach, reach
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if spearman(scores - middle * lengths, lengths) > 0 else (low, middle)
    return min((low, high), key=lambda penalty: abs(spearman(scores - penalty * lengths, lengths)))


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of the ranks of two [n] arrays; equal values share their mean rank. 0: one is constant."""
    ranks = [_ranks(first), _ranks(second)]
    if min(np.ptp(rank) for rank in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]
