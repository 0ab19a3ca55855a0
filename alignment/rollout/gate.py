"""The log-prob gate: check that rollout engine and trainer agree on the log-probs of sampled tokens.

Both compute log-softmax(logits / temperature) of every sampled token, before any sampling filter. If they differ, the
tokens come from another distribution than the trained one, and PPO's ratio does not start at 1. Every process holds the
same rollout, so all of them decide alike without communication.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import paddle

from alignment.algorithms.importance import truncated_importance_weights
from alignment.errors import NotFiniteError, NumericalError
from alignment.metrics import Metric
from alignment.records import Rollout
from alignment.telemetry import log

Action = Literal["warn", "correct", "recompute", "stop"]

LINE_EVERY = 50
"""Only the first rollout above the limit and every multiple of this are logged."""


@dataclass
class RareWarning:
    """Warns of rollouts above the limit, and counts them since the start of this process."""

    count: int = 0

    def tell(self, text: str) -> None:
        """Count a rollout; log ``text`` of the first and of every ``LINE_EVERY``th."""
        self.count += 1
        if log.is_main() and (self.count == 1 or self.count % LINE_EVERY == 0):
            log.warn(
                f"{text} (number {self.count} above the limit; only the first and every {LINE_EVERY}th are logged)"
            )


_CONSEQUENCES = {
    "warn": "the run continues unchanged; on_logprob_gap=correct, recompute or stop would act",
    "correct": "importance weights correct the policy loss, as they do in every rollout of this run",
    "recompute": "the old log-probs of this rollout are the trainer's instead of the engine's",
}
_ADVICE = (
    "The engine may compute in another precision or hold other weights than the trainer. use_fusemt=false rolls out "
    "with the eager engine; with on_logprob_gap=correct or recompute the run continues; a larger logprob_gap_limit "
    "accepts the gap"
)


class LogprobGap(NamedTuple):
    """|engine's - trainer's| log-prob in nats, over the response tokens of valid rows; NaN if one of them is.

    If the trainer computed those of some rows only: over the tokens of these, valid or not.
    """

    mean: float
    p99: float
    """The smallest gap not exceeded by at least 99 % of the tokens; with fewer than 100 tokens the maximum."""
    max: float
    worst: str
    """A description of the token with the largest gap."""

    def metrics(self) -> dict[str, Metric]:
        """Return ``rollout/logprob_gap_mean``, ``_p99`` and ``_max``."""
        return {
            "rollout/logprob_gap_mean": Metric(self.mean),
            "rollout/logprob_gap_p99": Metric(self.p99),
            "rollout/logprob_gap_max": Metric(self.max, "max"),
        }

    def __str__(self) -> str:
        return f"p99 {self.p99:.3g}, mean {self.mean:.3g}, worst {self.max:.3g} nats at {self.worst}"


@np.errstate(invalid="ignore")
def measure_gap(rollout: Rollout) -> LogprobGap:
    """Return the gap between ``rollout_logprobs`` (the engine's) and ``old_logprobs`` (here the trainer's)."""
    engine, trainer = rollout.rollout_logprobs, rollout.old_logprobs
    assert engine is not None and trainer is not None
    is_token = rollout.checked_tokens
    gap = np.where(is_token, np.abs(engine - trainer), -1.0)
    row, position = np.unravel_index(gap.argmax(), gap.shape)
    tokens = gap[is_token].astype(np.float64)
    return LogprobGap(
        mean=float(tokens.mean()),
        p99=float(np.quantile(tokens, 0.99, method="inverted_cdf")),
        max=float(tokens.max()),
        worst=(
            f"row {row}, response position {position}, token id {rollout.responses[row][position]} "
            f"(engine {engine[row, position]:.6g}, trainer {trainer[row, position]:.6g})"
        ),
    )


def _damaged(rollout: Rollout) -> str:
    """Return which of engine and trainer have non-finite log-probs of response tokens."""
    is_token = rollout.response_mask > 0
    sides = {"engine": rollout.rollout_logprobs, "trainer": rollout.old_logprobs}
    return " and the ".join(name for name, values in sides.items() if not np.isfinite(values[is_token]).all())


@dataclass(kw_only=True)
class LogprobGate:
    """Measures the gap of each training rollout and acts if its p99 exceeds ``limit``.

    ``warn`` and ``stop`` leave the rollout unchanged: its old log-probs are the trainer's. ``correct`` gives every
    rollout importance weights, above the limit or not, so that the objective does not jump at the limit. ``recompute``
    uses the engine's log-probs as the old ones while the gap is within the limit, so that the ratio and the KL in the
    reward refer to the distribution that was sampled; above the limit it uses the trainer's. It does so whatever the
    action where the trainer computed only those of ``checked_rows`` (``logprob_check.py``).

    The trainer's log-probs of a rollout of earlier weights are those of the policy before the update, to which the
    ratio and the KL refer, and not of the one that sampled it: the weights correct for the distance between the two,
    and there is no gap to measure.
    """

    limit: float
    """In nats, above 0."""
    action: Action
    weight_cap: float
    """Largest importance weight, at least 1."""
    falls_back: bool = False
    """Whether old log-probs are the engine's up to the limit and the trainer's above it, whatever the action
    (``logprob_check.py``)."""
    weighs_all: bool = False
    """Whether rollouts may come from earlier weights: all of them get importance weights, whatever the action."""
    _warning: RareWarning = field(default_factory=RareWarning, init=False)

    def check(self, rollout: Rollout, *, staleness: int = 0) -> tuple[Rollout, dict[str, Metric]]:
        """Return the rollout to learn from, and metrics; ``staleness`` counts the updates since its weights.

        NumericalError above the limit if the action is ``stop``; NotFiniteError if the gap is not finite.
        """
        gap = measure_gap(rollout)
        if not math.isfinite(gap.max):
            raise NotFiniteError(f"log-probs by the {_damaged(rollout)} are NaN or infinite ({gap})", "policy")
        is_above = not staleness and gap.p99 > self.limit
        if is_above:
            self._tell(gap, rollout.policy_version)
        metrics = {} if staleness else gap.metrics()
        if self.weighs_all:
            metrics["rollout/staleness"] = Metric(float(staleness))
        if self.action == "correct" or self.weighs_all:
            rollout = rollout.with_fields(importance_weights=self._weights(rollout))
            metrics |= self._describe(rollout)
        elif rollout.checked_rows is not None or (self.action == "recompute" and not is_above):
            rollout = rollout.with_fields(old_logprobs=rollout.rollout_logprobs)
        return rollout, metrics

    def _tell(self, gap: LogprobGap, update: int) -> None:
        said = f"log-probs of engine and trainer differ at update {update} by {gap}; logprob_gap_limit={self.limit:g}"
        if self.action == "stop":
            raise NumericalError(f"{said} is for p99, and on_logprob_gap=stop. {_ADVICE}")
        self._warning.tell(f"{said} is for p99: {_CONSEQUENCES['recompute' if self.falls_back else self.action]}")

    def _weights(self, rollout: Rollout) -> np.ndarray:
        trainer, engine, mask = map(
            paddle.to_tensor, (rollout.old_logprobs, rollout.rollout_logprobs, rollout.response_mask)
        )
        return truncated_importance_weights(trainer, engine, mask=mask, cap=self.weight_cap).numpy()

    def _describe(self, rollout: Rollout) -> dict[str, Metric]:
        is_token = rollout.response_mask > 0
        on_tokens = rollout.importance_weights[is_token]
        log_ratio = (rollout.old_logprobs - rollout.rollout_logprobs)[is_token]
        return {
            "rollout/importance_weight_mean": Metric(float(on_tokens.mean())),
            "rollout/importance_weight_max": Metric(float(on_tokens.max()), "max"),
            "rollout/importance_weight_truncated": Metric(float((log_ratio > math.log(self.weight_cap)).mean())),
        }
