"""Detect a model that has stopped learning for good: its gradient is exactly 0 although its losses are not.

After a step that was far too large a policy may give one answer with certainty. Its log-probs are then 0, the gradient
vanishes, and nothing ever changes again, although no number is infinite or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from alignment.errors import NumericalError
from alignment.metrics import Metric

PATIENCE = 3
"""Consecutive iterations with a gradient of exactly 0 that end a run."""
SMALLEST_LESSON = 1e-6
"""Losses and advantages up to this count as 0: a model that has learned its data has a gradient of 0 too."""
_NORM = "/gradient_norm"


@dataclass(kw_only=True)
class Liveness:
    """Counts, by model, consecutive iterations whose gradient was exactly 0 although there was something to learn.

    An iteration is one update, or in on-policy training one rollout with all its updates: clipping may zero the
    gradient of the later ones, but not of the first.
    """

    silent: dict[str, int] = field(default_factory=dict)
    """Model to number of iterations."""

    def observe(self, metrics: Mapping[str, Metric], *, update: int) -> None:
        """Count the iteration that ended with ``update``; NumericalError if a model has stopped learning."""
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
        """Return a warning about models whose last gradients were 0, or None."""
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
            + " and resume from an earlier checkpoint, or start again; no model was exported"
        )


_CAUSE = "the model has stopped learning for good (a step was too large)"


def teaches(name: str, metrics: Mapping[str, Metric]) -> bool:
    """Tell whether the model ``name`` had something to learn: advantages of a policy, else a loss."""
    if name == "policy" and "policy/advantage_std" in metrics:
        mean, deviation = (float(metrics[f"policy/advantage_{part}"].value) for part in ("mean", "std"))
        return math.hypot(mean, deviation) > SMALLEST_LESSON
    losses = [key for key in metrics if key.endswith("/loss") and key != "policy/loss"]
    own = [f"{name}/loss"] if f"{name}/loss" in metrics else losses
    return any(float(metrics[key].value) > SMALLEST_LESSON for key in own)
