"""End a run whose evaluations no longer improve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alignment.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """How many evaluations in a row without improvement end a run; the session's counters hold the state."""

    metric: str
    greater_is_better: bool
    patience: int
    threshold: float
    """Improvements up to this do not count."""

    def is_better(self, value: float, so_far: float | None) -> bool:
        """Tell whether ``value`` improves on the best one so far (None: there is none)."""
        gain = 0.0 if so_far is None else value - so_far if self.greater_is_better else so_far - value
        return so_far is None or gain > self.threshold


def read_metric(metrics: Mapping[str, float], name: str) -> float:
    """Return the metric of an evaluation that metric_for_best_model names; ArgumentError if it has none."""
    if name not in metrics:
        raise ArgumentError(
            f"metric_for_best_model={name!r} is not a metric of this evaluation (allowed: {', '.join(sorted(metrics))})"
        )
    return metrics[name]
