"""The coefficient of the entropy bonus that keeps the entropy at a target (He et al. 2025, "Skywork Open Reasoner 1",
section 3.2.5; the constants are TRL's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class AdaptiveEntropy:
    """A coefficient that rises by ``step`` after an update with an entropy up to ``target``, and falls after others.

    The bonus is only applied after an update whose entropy did not exceed the target. Entropies are those of all rows,
    so the coefficient is the same in every process.
    """

    coefficient: float
    target: float
    """Mean entropy of a token, in nats."""
    step: float
    minimum: float
    maximum: float
    latest: float | None = None
    """Entropy in the latest update; None before the first."""

    @property
    def applied(self) -> float:
        """The coefficient of the next update."""
        return self.coefficient if self.latest is not None and self.latest <= self.target else 0.0

    def observe(self, entropy: float) -> None:
        """Adapt to the mean ``entropy`` of the tokens of an update, in nats."""
        moved = self.coefficient + (self.step if entropy <= self.target else -self.step)
        self.coefficient = min(max(moved, self.minimum), self.maximum)
        self.latest = entropy

    def state(self) -> dict[str, Any]:
        """Return what changes, as JSON values."""
        return {"coefficient": self.coefficient, "latest": self.latest}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.coefficient, self.latest = state["coefficient"], state["latest"]
