"""Running statistics for score normalisation (as in safe-rlhf), kept on the host in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

EPSILON = 1e-8
DEFAULT_MOMENTUM = 0.9
KINDS = ("affine", "scale", "translate", "identity")


class Normalizer:
    """Fixed statistics, mean 0 and variance 1, that only count scores; the base class of the two that learn.

    A single score has no variance (other suites compute NaN): it updates the mean and leaves the variance as it was.
    """

    def __init__(self) -> None:
        self.mean, self.var, self.count = 0.0, 1.0, 0

    def update(self, scores: np.ndarray) -> None:
        """Update the statistics with a batch of scores [n], n >= 1."""
        assert np.size(scores), "an empty batch has no mean"
        self._learn(np.asarray(scores, np.float64).ravel())
        self.count += int(np.size(scores))

    def _learn(self, scores: np.ndarray) -> None:
        return

    def normalize(self, scores: Any, kind: str = "affine") -> Any:
        """Return normalised scores (numpy or paddle, any shape).

        affine: (x - mean) / (std + 1e-8); scale: x / (std + 1e-8); translate: x - mean; identity: x.
        """
        assert kind in KINDS, kind
        shifted = scores - self.mean if kind in ("affine", "translate") else scores
        return shifted / (float(np.sqrt(self.var)) + EPSILON) if kind in ("affine", "scale") else shifted

    def state(self) -> dict[str, float]:
        """Return mean, variance and count."""
        return {"mean": self.mean, "var": self.var, "count": self.count}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned; one-element lists, as safe-rlhf writes them, are accepted too."""
        self.mean, self.var = (float(np.ravel(state[name])[0]) for name in ("mean", "var"))
        self.count = int(np.ravel(state.get("count", 0))[0])


class RunningMeanStd(Normalizer):
    """Mean and unbiased variance of all scores so far (Chan et al. 1979)."""

    def _learn(self, scores: np.ndarray) -> None:
        size, total = scores.size, self.count + scores.size
        batch_var = scores.var(ddof=1) if size > 1 else 0.0
        delta = scores.mean() - self.mean
        self.mean += delta * size / total
        if total > 1:
            seen = self.var * self.count if self.count > 1 else 0.0
            self.var = (seen + batch_var * size + delta**2 * self.count * size / total) / total


class ExponentialMovingAverage(Normalizer):
    """Exponential moving averages of mean and variance; ``momentum`` is the weight of the old value."""

    def __init__(self, momentum: float | None = None) -> None:
        super().__init__()
        self.momentum = DEFAULT_MOMENTUM if momentum is None else momentum

    def _learn(self, scores: np.ndarray) -> None:
        batch_var = scores.var(ddof=1) if scores.size > 1 else self.var
        self.mean = self.momentum * self.mean + (1 - self.momentum) * scores.mean()
        self.var = self.momentum * self.var + (1 - self.momentum) * batch_var


def build_normalizer(name: str | None, momentum: float | None = None) -> Normalizer:
    """Return the normalizer called ``name``; None: the one with fixed statistics."""
    if name is None:
        return Normalizer()
    if name == "RunningMeanStd":
        return RunningMeanStd()
    assert name == "ExponentialMovingAverage", name
    return ExponentialMovingAverage(momentum)
