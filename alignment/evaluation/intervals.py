"""Estimates with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
"""Bootstrap resamples: the ends of a 95 % interval then move by about 2 % of its width with the seed."""
_SEED = 42


class IntervalEstimate(NamedTuple):
    """A number with its interval."""

    value: float
    low: float | None
    """None, and ``high`` too: no interval, because there is a single row."""
    high: float | None
    count: int
    """Rows (prompts, pairs) that it was computed from."""

    def scaled(self, factor: float) -> IntervalEstimate:
        """Return it in another unit."""
        ends = [None if end is None else end * factor for end in (self.low, self.high)]
        return IntervalEstimate(self.value * factor, ends[0], ends[1], self.count)


def wilson(mean: float, count: float, confidence: float = 0.95) -> IntervalEstimate:
    """Return the score interval of a proportion ``mean`` of ``count`` independent rows (Wilson 1927); an effective
    number of rows may have a fraction.

    For rows with values between 0 and 1 (a tie is 0.5) it is at least as wide as needed: their variance is at most
    ``mean * (1 - mean)``.
    """
    assert count > 0 and 0 <= mean <= 1, (mean, count)
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    centre = (mean + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (mean * (1 - mean) / count + z2 / (4 * count * count))) / (1 + z2 / count)
    return IntervalEstimate(mean, max(0.0, centre - half), min(1.0, centre + half), round(count))


def proportion(values: Sequence[float], confidence: float = 0.95) -> IntervalEstimate:
    """Return the mean of ``values``, each between 0 and 1, with Wilson's interval."""
    return wilson(float(np.mean(values)), len(values), confidence)


def bootstrap(
    strata: Sequence[np.ndarray], statistic: Callable[[Sequence[np.ndarray]], float], confidence: float = 0.95
) -> IntervalEstimate:
    """Return ``statistic(strata)`` with the percentile interval of a bootstrap with a fixed seed (Efron 1979).

    Rows [n, ...] are drawn with replacement within each stratum. One row in all has no interval.
    """
    count, rng = sum(map(len, strata)), np.random.default_rng(_SEED)
    value = float(statistic(strata))
    if count < 2:
        return IntervalEstimate(value, None, None, count)
    drawn = [statistic([rows[rng.integers(len(rows), size=len(rows))] for rows in strata]) for _ in range(RESAMPLES)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return IntervalEstimate(value, float(low), float(high), count)


def bootstrap_mean(values: Sequence[float], confidence: float = 0.95) -> IntervalEstimate:
    """Return the mean of ``values`` [n] with a bootstrap interval."""
    return bootstrap([np.asarray(values, np.float64)], lambda strata: strata[0].mean(), confidence)
