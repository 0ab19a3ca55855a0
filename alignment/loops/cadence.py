"""When to log, evaluate and save, counted in updates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """``steps``: each time the update count crosses a multiple of ``every``; ``epoch``: at each epoch's end; ``no``."""

    strategy: str
    every: int = 1

    def is_due(self, before: int, after: int, *, epoch_ended: bool) -> bool:
        """Return whether the interval of updates (before, after] brings the event."""
        if self.strategy == "steps":
            return after // self.every > before // self.every
        return self.strategy == "epoch" and epoch_ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadences:
    """The three events of a run, counted in updates."""

    log: Cadence
    evaluate: Cadence
    save: Cadence
