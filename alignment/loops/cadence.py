"""When to log, evaluate and save, in updates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """``steps``: whenever the update count passes a multiple of ``every``; ``epoch``: at the end of epochs; ``no``."""

    strategy: str
    every: int = 1

    def is_due(self, before: int, after: int, *, epoch_ended: bool) -> bool:
        """Tell whether the event is due in the interval of updates (before, after]."""
        if self.strategy == "steps":
            return after // self.every > before // self.every
        return self.strategy == "epoch" and epoch_ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadences:
    """The cadences of a run's three events."""

    log: Cadence
    evaluate: Cadence
    save: Cadence
