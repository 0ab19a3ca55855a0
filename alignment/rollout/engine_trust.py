"""Take the engine's log-probs as the policy's where both agree on a sample of a rollout's responses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from alignment.arguments.keys.rollout_engine import RolloutEngineArguments
from alignment.records import Rollout
from alignment.rollout.gate import measure_gap
from alignment.telemetry import log


@dataclass(kw_only=True)
class EngineTrust:
    """Compares engine and trainer on ``rows`` responses, spread evenly; the trainer computes the others only where the
    gap (p99, as in the gate) exceeds ``limit``.
    """

    rows: int
    limit: float
    """In nats."""
    _has_told: bool = field(default=False, init=False)

    @classmethod
    def of(cls, engine: RolloutEngineArguments) -> EngineTrust | None:
        """Return what the arguments ask for; None: the trainer computes all responses."""
        return cls(rows=engine.logprob_gate_rows, limit=engine.logprob_gap_limit) if engine.logprob_gate_rows else None

    def measure(
        self, rollout: Rollout, policy: Callable[..., tuple[np.ndarray, np.ndarray | None]]
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Return (old log-probs [N, R], entropies [N, R] or None, whether they are the trainer's [N]).

        ``policy`` returns the trainer's log-probs and entropies of its argument ``rows`` (by default of all rows).
        """
        everyone = np.ones(rollout.num_rows, bool)
        if self.rows >= rollout.num_rows:
            return *policy(), everyone
        rows = np.linspace(0, rollout.num_rows - 1, self.rows).round().astype(np.int64)
        compared = np.isin(np.arange(rollout.num_rows), rows)
        logprobs, entropy = policy(rows=rows)
        old = _with_rows(rollout.rollout_logprobs, rows, logprobs)
        gap = measure_gap(rollout.with_fields(old_logprobs=old, compared=compared))
        if not gap.p99 <= self.limit:
            return *policy(), everyone
        if not self._has_told:
            self._has_told = True
            log.info(
                f"old log-probs: the engine's for {rollout.num_rows - self.rows} of {rollout.num_rows} responses, "
                f"which the trainer need not compute; on the other {self.rows} both agree (gap p99 {gap.p99:.2g} nats)"
            )
        return old, None if entropy is None else _with_rows(np.zeros_like(old), rows, entropy), compared


def _with_rows(grid: np.ndarray, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return ``grid`` [N, R] with ``values`` [n, R] in ``rows`` [n]."""
    grid = grid.copy()
    grid[rows] = values
    return grid
