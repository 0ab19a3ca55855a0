"""Notices a model that has stopped learning for good: its gradient is exactly 0 although its batches teach something.

After one step that was far too large a policy can give one answer with certainty. Its log-probs are then 0 and their
gradient vanishes, nothing ever changes again, and no number is infinite or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from alignment.errors import NumericalError
from alignment.metrics import Metric

PATIENCE = 3
"""Iterations in a row with a gradient of exactly 0 that end a run."""
SMALLEST_LESSON = 1e-6
"""Losses and advantages up to this teach nothing: a model that knows its data has a gradient of 0 too."""
_NORM = "/gradient_norm"


@dataclass(kw_only=True)
class Liveness:
    """Counts by model the iterations in a row whose gradient was exactly 0 without a reason.

    An iteration is one update, or in on-policy training one rollout with all of its updates: the first of them moves
    freely, so that the clipping of the later ones does not make the norm of all 0.
    """

    silent: dict[str, int] = field(default_factory=dict)
    """Model to iterations."""

    def observe(self, metrics: Mapping[str, Metric], *, update: int) -> None:
        """Take the metrics of the iteration that ended with ``update``; NumericalError when a model has died."""
        for key, norm in metrics.items():
            if not key.endswith(_NORM):
                continue
            name = key.removesuffix(_NORM)
            if float(norm.value) != 0:
                self.silent[name] = 0
            elif teaches(name, metrics):
                self.silent[name] = self.silent.get(name, 0) + 1
                self._refuse_dead(name, metrics, update)

    def describe(self) -> str | None:
        """Return a warning for models whose last gradients were 0, None when all learn."""
        dying = [f"{name} in the last {count}" for name, count in self.silent.items() if count]
        return f"the gradient was exactly 0 for {', '.join(dying)} iteration(s): {_CAUSE}" if dying else None

    def _refuse_dead(self, name: str, metrics: Mapping[str, Metric], update: int) -> None:
        if self.silent[name] < PATIENCE:
            return
        rate = metrics.get(f"{name}/learning_rate")
        raise NumericalError(
            f"{name}: the gradient was exactly 0 in the last {PATIENCE} iterations up to update {update}, although "
            f"there was something to learn: {_CAUSE}. Lower the learning rate"
            + ("" if rate is None else f" ({float(rate.value):g} now)")
            + " and resume from a checkpoint of before, or start anew; no model was exported"
        )


_CAUSE = "the model has died (a step was too large), and further training changes nothing"


def teaches(name: str, metrics: Mapping[str, Metric]) -> bool:
    """Return whether the model ``name`` had something to learn: advantages for a policy, else a loss."""
    if name == "policy" and "policy/advantage_std" in metrics:
        mean, deviation = (float(metrics[f"policy/advantage_{part}"].value) for part in ("mean", "std"))
        return math.hypot(mean, deviation) > SMALLEST_LESSON
    losses = [key for key in metrics if key.endswith("/loss") and key != "policy/loss"]
    own = [f"{name}/loss"] if f"{name}/loss" in metrics else losses
    return any(float(metrics[key].value) > SMALLEST_LESSON for key in own)
