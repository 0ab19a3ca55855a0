"""Means of training metrics over windows of rollouts, with the error of each mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from alignment.metrics import Metric

WINDOW = 5
"""Rollouts in a window. The first window is the start that all others are compared with."""
SERIES: Mapping[str, str] = MappingProxyType(
    {
        "reward": "train/reward",
        "spread": "reward/std",
        "kl": "train/kl_divergence",
        "length": "train/mean_generated_length",
        "correlation": "reward/length_correlation",
        "ended": "rollout/eos_rate",
        "entropy": "policy/entropy",
        "repetition": "rollout/repetition",
        "overlap": "rollout/overlap",
    }
)
"""What the detector looks at, and the metric that holds it."""
SAMPLED = "rollout/sampled_reward"


class Mean(NamedTuple):
    """The mean of a window."""

    value: float
    variance: float
    """Of the mean."""


Window = Mapping[str, Mean]
"""The means of one window, by name in ``SERIES``."""


def read_row(metrics: Mapping[str, Metric]) -> dict[str, float] | None:
    """Return the metrics of one rollout that the detector looks at; None for metrics without a reward.

    Dynamic sampling trains on some prompts only: the reward is that of all that were sampled.
    """
    row = {name: float(metrics[metric].value) for name, metric in SERIES.items() if metric in metrics}
    if SAMPLED in metrics:
        row["reward"] = float(metrics[SAMPLED].value)
    return row if "reward" in row else None


def summarise(rows: Sequence[Mapping[str, float]]) -> dict[str, Mean]:
    """Return the means over ``rows`` of what all of them have as a finite number."""
    names = [name for name in rows[0] if all(name in row and math.isfinite(row[name]) for row in rows)]
    return {name: _mean([row[name] for row in rows]) for name in names}


def change(start: Mean, now: Mean) -> tuple[float, float]:
    """Return how much a mean has risen, and the standard error of that."""
    return now.value - start.value, math.sqrt(start.variance + now.variance)


def _mean(numbers: Sequence[float]) -> Mean:
    count = len(numbers)
    mean = math.fsum(numbers) / count
    return Mean(mean, math.fsum((number - mean) ** 2 for number in numbers) / (count - 1) / count)
