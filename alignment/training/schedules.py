"""Learning rate schedules, pure functions of the update number."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm-up from 0 to ``peak``, then decay to ``floor``.

    ``kind`` is linear, cosine, polynomial (power 2), constant (no warm-up, as in the reference suite) or
    constant_with_warmup. ``decay_updates`` is counted from the first update, so it includes the warm-up.
    """

    kind: str
    peak: float
    floor: float
    warmup_updates: int
    decay_updates: int

    def learning_rate(self, update: int) -> float:
        """Return the learning rate of update number ``update``, counted from 0."""
        if self.kind == "constant":
            return self.peak
        if update < self.warmup_updates:
            return self.peak * update / max(1, self.warmup_updates)
        if self.kind == "constant_with_warmup":
            return self.peak
        span = max(1, self.decay_updates - self.warmup_updates)
        done = min(1.0, (update - self.warmup_updates) / span)
        remaining = {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "polynomial": (1 - done) ** 2}
        return self.floor + (self.peak - self.floor) * remaining[self.kind]


def warmup_updates(total_updates: int, *, warmup_steps: int, warmup_ratio: float) -> int:
    """Return the number of warm-up updates; a positive ``warmup_steps`` takes precedence over the ratio."""
    return warmup_steps if warmup_steps > 0 else math.ceil(total_updates * warmup_ratio)
