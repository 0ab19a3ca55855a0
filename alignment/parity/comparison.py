"""Compare two trajectories number by number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alignment.parity.trajectory import Trajectory

GRADIENT_NORMS = ("policy/gradient_norm", "critic/gradient_norm", "reward/gradient_norm")
TOLERANCE = 1e-5


class Difference(NamedTuple):
    """The largest differences by kind; NaN if the trainer has nothing of that kind."""

    loss: float
    """Absolute, over all updates and losses."""
    gradient_norm: float
    """Relative."""
    logprob: float
    """Absolute, over all sampled tokens."""
    value: float
    """Absolute, over all sampled tokens."""
    weight: float
    """Norm of a tensor's difference relative to the norm of the tensor, after the last update."""
    element: float
    """Largest difference of a number, relative to the largest in its tensor. If a gradient is as small as its rounding
    error, Adam still makes a whole step (about the learning rate), so this is larger and has no limit."""
    tokens_equal: bool

    def passes(self, tolerance: float = TOLERANCE) -> bool:
        """Tell whether losses and weights agree within ``tolerance`` and all sampled tokens are the same."""
        return self.tokens_equal and self.loss <= tolerance and self.weight <= tolerance


def compare(one: Trajectory, other: Trajectory) -> Difference:
    """Return how far ``other`` is from ``one``; runs of different length or shape are an infinite difference."""
    tokens_equal = _same_tokens(one, other)
    return Difference(
        loss=_metric_difference(one, other, loss_names(one.metrics), relative=False),
        gradient_norm=_metric_difference(one, other, GRADIENT_NORMS, relative=True),
        logprob=_largest(one.logprobs, other.logprobs) if tokens_equal else np.inf,
        value=_largest(one.values, other.values) if tokens_equal else np.inf,
        weight=_weight_difference(one, other, np.linalg.norm),
        element=_weight_difference(one, other, lambda x: np.abs(x).max()),
        tokens_equal=tokens_equal,
    )


def loss_names(records: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the names of the losses in the records of a run."""
    return list(dict.fromkeys(name for record in records for name in record if name.endswith("/loss")))


def _same_tokens(one: Trajectory, other: Trajectory) -> bool:
    flat = [[row for rows in t.responses for row in rows] for t in (one, other)]
    return len(flat[0]) == len(flat[1]) and all(map(np.array_equal, *flat))


def _metric_difference(one: Trajectory, other: Trajectory, names: Sequence[str], *, relative: bool) -> float:
    if len(one.metrics) != len(other.metrics):
        return np.inf
    differences = [np.nan]
    for name in names:
        for a, b in zip(one.metrics, other.metrics, strict=True):
            if name in a:
                differences.append(abs(a[name] - b[name]) / (abs(a[name]) if relative else 1.0))
    return float(np.nanmax(differences)) if len(differences) > 1 else np.nan


def _largest(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    return max((float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True)), default=np.nan)


def _weight_difference(one: Trajectory, other: Trajectory, size: Callable[[np.ndarray], float]) -> float:
    if one.weights.keys() != other.weights.keys() or not one.weights:
        return np.inf
    return max(float(size(a - other.weights[name]) / size(a)) for name, a in one.weights.items())
