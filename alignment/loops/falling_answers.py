"""Detect preferred answers that become less likely for long: a preference loss only needs the others to fall faster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from alignment.metrics import Metric
from alignment.telemetry import log

METRIC = "logps/chosen"
WINDOW = 20
"""Updates whose mean is compared with that of the first ones."""
PATIENCE = 5
"""Windows in a row that must have fallen before the run warns, once."""
MIN_FALL = 1.0
"""Nats per answer that count as a fall."""
_ERRORS = 3.0
"""Standard errors of the difference that a fall must exceed, as the answers of each update are others."""


class _Mean(NamedTuple):
    value: float
    variance: float
    """Of the mean."""

    @classmethod
    def of(cls, numbers: list[float]) -> _Mean:
        count = len(numbers)
        mean = math.fsum(numbers) / count
        return cls(mean, math.fsum((number - mean) ** 2 for number in numbers) / (count - 1) / count)


@dataclass(kw_only=True)
class FallingAnswers:
    """Compares the mean log-prob of preferred answers, window by window, with that of the first window."""

    window: list[float] = field(default_factory=list)
    first: _Mean | None = None
    in_a_row: int = 0
    told: bool = False

    def state(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**vars(self), "first": None if self.first is None else list(self.first)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> FallingAnswers:
        """Return what ``state`` was of."""
        first = state["first"]
        return cls(**{**state, "window": list(state["window"]), "first": None if first is None else _Mean(*first)})

    def observe(self, metrics: Mapping[str, Metric]) -> None:
        """Count one update; metrics without log-probs of answers are ignored."""
        if METRIC not in metrics:
            return
        self.window.append(float(metrics[METRIC].value))
        if len(self.window) < WINDOW:
            return
        mean, self.window = _Mean.of(self.window), []
        if self.first is None:
            self.first = mean
            return
        fall = self.first.value - mean.value
        error = math.sqrt(self.first.variance + mean.variance)
        self.in_a_row = self.in_a_row + 1 if fall > max(MIN_FALL, _ERRORS * error) else 0
        if self.in_a_row == PATIENCE:
            self._warn(mean.value)

    def _warn(self, latest: float) -> None:
        if self.told or not log.is_main():
            return
        self.told = True
        log.warn(
            f"the preferred answers have become less likely for {PATIENCE * WINDOW} updates: their mean log-prob "
            f"({METRIC}) is {latest:.4g}, and was {self.first.value:.4g} in the first {WINDOW}. The loss only needs "
            "the rejected answers to fall faster; if the policy becomes worse, raise beta, or sft_loss_ratio (KTO: "
            "desirable_weight), or lower the learning rate"
        )
