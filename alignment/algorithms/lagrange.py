"""The Lagrange multiplier of a constraint on the mean cost of responses (Dai et al. 2023, "Safe RLHF", equation 11)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from alignment.errors import NumericalError
from alignment.metrics import Metric


@dataclass(kw_only=True)
class LagrangeMultiplier:
    """A multiplier that rises while the mean cost is above ``threshold`` and falls while it is below.

    Its logarithm makes steps of gradient ascent on (cost - threshold) * multiplier, as in safe-rlhf, so the multiplier
    stays positive. Computed in float64 from the costs of all rows, so it is the same in every process.
    """

    initial: float
    """Above 0."""
    threshold: float
    learning_rate: float
    """0: the multiplier stays."""
    maximum: float | None
    """None: no limit."""
    delay: int
    """Updates of the policy before the first step."""
    window: int
    """Number of the latest responses that the mean cost is of."""
    log_value: float = field(init=False)
    _costs: deque[float] = field(init=False)

    def __post_init__(self) -> None:
        self.log_value = math.log(self.initial)
        self._costs = deque(maxlen=self.window)

    @property
    def value(self) -> float:
        """The multiplier."""
        return math.exp(self.log_value)

    def observe(self, costs: Sequence[float], *, num_updates: int) -> dict[str, Metric]:
        """Take in the ``costs`` of a rollout's valid responses and make one step, unless ``num_updates`` of the policy
        are fewer than ``delay``; return ``train/episode_cost`` and ``train/lambda`` (after the step).
        """
        self._costs.extend(costs)
        mean = math.fsum(self._costs) / len(self._costs)
        if num_updates >= self.delay:
            self.log_value = self._stepped(mean)
        return {"train/episode_cost": Metric(mean), "train/lambda": Metric(self.value)}

    def _stepped(self, mean: float) -> float:
        """Return the logarithm after a step; NumericalError if the multiplier would be infinite."""
        stepped = self.log_value + self.learning_rate * self.value * (mean - self.threshold)
        limited = stepped if self.maximum is None else min(stepped, math.log(self.maximum))
        if not limited <= math.log(1e30):
            raise NumericalError(
                f"the Lagrange multiplier grows without limit: its logarithm would be {limited:g} with a mean cost of "
                f"{mean:g} and threshold={self.threshold:g}. Give lambda_max, a smaller lambda_lr (now "
                f"{self.learning_rate:g}) or a threshold that the policy can reach"
            )
        return limited

    def state(self) -> dict[str, Any]:
        """Return the logarithm and the costs in the window, oldest first."""
        return {"log_value": self.log_value, "costs": list(self._costs)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.log_value = float(state["log_value"])
        self._costs = deque(map(float, state["costs"]), maxlen=self.window)
