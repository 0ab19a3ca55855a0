"""How often one policy's answers are better than another's to the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignment.evaluation.intervals import IntervalEstimate, bootstrap_mean, proportion

_STEPS = 50
_CONVERGED = 1e-9
_LARGEST_LOGIT = 15.0
"""A fit beyond it has no finite optimum: lengths tell winners from losers without exception."""


class WinRate(NamedTuple):
    """A comparison of two policies."""

    rate: IntervalEstimate
    """Share of comparisons won, a tie counted as half; the interval is Wilson's over prompts."""
    wins: int
    ties: int
    losses: int
    margin: IntervalEstimate
    """Mean difference of the scores."""
    length_difference: IntervalEstimate
    """Mean difference of the answers' lengths in characters."""
    at_equal_length: float | None
    """The share that answers of equal length would win (see ``rate_at_equal_length``); None: it cannot be fitted."""


def win_rate(
    outcomes: np.ndarray, margins: np.ndarray, length_differences: np.ndarray, confidence: float = 0.95
) -> WinRate:
    """Return the comparison from [n, K] arrays: K comparisons for each of n prompts.

    ``outcomes`` are 1 for a win, 0.5 for a tie and 0 for a loss. Comparisons of one prompt are not independent, so
    intervals are those of the prompts' means.
    """
    counts = [int((outcomes == value).sum()) for value in (1.0, 0.5, 0.0)]
    return WinRate(
        proportion(outcomes.mean(axis=1).tolist(), confidence),
        *counts,
        margin=bootstrap_mean(margins.mean(axis=1), confidence),
        length_difference=bootstrap_mean(length_differences.mean(axis=1), confidence),
        at_equal_length=rate_at_equal_length(outcomes.ravel(), length_differences.ravel()),
    )


def rate_at_equal_length(outcomes: Sequence[float], length_differences: Sequence[float]) -> float | None:
    """Return the fitted win rate at a length difference of 0.

    It is the logistic regression of outcomes [n] on tanh of the standardised length difference, the length term of
    length-controlled AlpacaEval (Dubois et al. 2024); there is no term for the difficulty of a prompt. None: there are
    fewer than two outcomes, or length separates them, so that the fit has no optimum.
    """
    y, x = np.asarray(outcomes, np.float64), np.asarray(length_differences, np.float64)
    if len(y) < 2:
        return None
    if not x.std():
        return float(y.mean()) if not x.any() else None
    design = np.stack([np.ones_like(x), np.tanh(x / x.std())], axis=1)
    fitted = _fit_logistic(design, y)
    return None if fitted is None else float(1 / (1 + np.exp(-fitted[0])))


def _fit_logistic(design: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Return the coefficients of ``design`` [n, p] by Newton's method; None if they grow without end."""
    coefficients = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-design @ coefficients))
        curvature = design.T @ (design * (p * (1 - p))[:, None])
        try:
            step = np.linalg.solve(curvature, design.T @ (y - p))
        except np.linalg.LinAlgError:
            return None
        coefficients = coefficients + step
        if np.abs(coefficients).max() > _LARGEST_LOGIT:
            return None
        if np.abs(step).max() < _CONVERGED:
            return coefficients
    return None
