"""Take the old log-probs from the rollout engine, and compute the trainer's for a few rows only, to check them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from alignment.parallel.runner import ModelRunner
from alignment.records import Rollout
from alignment.rollout.forward import measure_logprobs
from alignment.rollout.gate import RareWarning
from alignment.telemetry.wording import counted


class OldLogprobs(NamedTuple):
    """The old log-probs of a rollout."""

    logprobs: np.ndarray
    """[N, R] float32."""
    entropy: np.ndarray | None
    """[N, R] float32, zero in rows that were not checked; None: not measured."""
    checked: np.ndarray | None = None
    """[N] bool, True for rows whose numbers are the trainer's, the others being the engine's; None: all rows."""
    expert_mismatch: float | None = None
    """See ``Rollout.expert_mismatch``."""


@dataclass(kw_only=True)
class LogprobCheck:
    """Computes the trainer's log-probs of ``num_rows`` rows of a rollout, and of all others if these are too far."""

    num_rows: int
    limit: float
    """Gap in nats that 99 % of the checked tokens must not exceed."""
    _warning: RareWarning = field(default_factory=RareWarning, init=False)

    def measure(self, policy: ModelRunner, rollout: Rollout, *, with_entropy: bool, **options: Any) -> OldLogprobs:
        """Return the old log-probs; ``options`` are those of ``measure_logprobs``.

        Every row is the trainer's if the checked ones are not within the limit, or if the engine's are not finite.
        """
        is_checked = self._choose(rollout)
        is_token = rollout.response_tokens
        if is_checked.all() or not np.isfinite(rollout.rollout_logprobs[is_token]).all():
            return OldLogprobs(*measure_logprobs(policy, rollout, with_entropy=with_entropy, **options))
        rows = np.flatnonzero(is_checked)
        found = measure_logprobs(policy, rollout, rows=rows, with_entropy=with_entropy, **options)
        gap = np.abs(found[0] - rollout.rollout_logprobs[rows])[is_token[rows]].astype(np.float64)
        p99 = float(np.quantile(gap, 0.99, method="inverted_cdf"))
        if not p99 <= self.limit:
            self._tell(p99, rollout)
            return OldLogprobs(*measure_logprobs(policy, rollout, with_entropy=with_entropy, **options))
        logprobs = np.where(is_token, rollout.rollout_logprobs, np.float32(0))
        logprobs[rows] = found[0]
        return OldLogprobs(logprobs, _spread(found[1], rows, logprobs.shape), is_checked)

    def _tell(self, p99: float, rollout: Rollout) -> None:
        self._warning.tell(
            f"log-probs of engine and trainer differ by p99 {p99:.3g} nats in {counted(self.num_rows, 'response')} "
            f"checked at update {rollout.policy_version}, and logprob_gap_limit={self.limit:g}: the trainer computes "
            f"those of all {rollout.num_rows} responses, so use_rollout_logprobs saves nothing there"
        )

    def _choose(self, rollout: Rollout) -> np.ndarray:
        """Return [N] bool, True in evenly spaced rows, which are others in the next rollout."""
        total = rollout.num_rows
        count = min(self.num_rows, total)
        is_checked = np.zeros(total, bool)
        is_checked[(np.arange(count) * total // count + rollout.policy_version) % total] = True
        return is_checked


def _spread(grid: np.ndarray | None, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return ``grid`` [n, R] in ``rows`` of a zero array of ``shape``."""
    if grid is None:
        return None
    spread = np.zeros(shape, np.float32)
    spread[rows] = grid
    return spread
