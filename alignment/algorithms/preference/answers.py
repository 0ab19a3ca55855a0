"""What all preference losses share: the two sides of pairs, and their metrics. Legend: n pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from alignment.metrics import Metric

if TYPE_CHECKING:
    from paddle import Tensor


class PairCounts(NamedTuple):
    """Totals over all micro-batches of an update: the denominators of losses."""

    pairs: int
    chosen_tokens: int
    """Response tokens of the preferred answers."""


class Sides(NamedTuple):
    """One number per answer, [n] each."""

    chosen: Tensor
    rejected: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The pairs of a micro-batch as a loss reads them: of whole answers, or means per token."""

    logps: Sides
    """The policy's log-probs, with gradients."""
    gains: Sides
    """What the policy's log-probs gained over the reference's; with no reference, the log-probs."""
    chosen_sums: Tensor
    """[n], the policy's log-probs of whole preferred answers in any case."""
    counts: PairCounts
    margin: Tensor | float = 0.0
    """By how much beta times the gap must exceed 0, [n]."""
    measured: Sides | None = None
    """What the survey of the update measured for the loss; None: it needs none."""

    @property
    def gap(self) -> Tensor:
        """How much more the preferred answers gained, [n]."""
        return self.gains.chosen - self.gains.rejected


def by_side(rows: Tensor) -> Sides:
    """Split ``rows`` [2n], which has all preferred answers first."""
    num_pairs = rows.shape[0] // 2
    return Sides(rows[:num_pairs], rows[num_pairs:])


def side_metrics(prefix: str, rows: Tensor, *, pairs: int) -> dict[str, Metric]:
    """Return ``PREFIX/chosen`` and ``PREFIX/rejected``, the means over pairs of both sides of ``rows`` [2n]."""
    sides = by_side(rows.detach())
    return {f"{prefix}/{name}": Metric(side.sum() / pairs) for name, side in zip(sides._fields, sides, strict=True)}


def reward_metrics(rewards: Tensor, *, pairs: int) -> dict[str, Metric]:
    """Return means of implicit ``rewards`` [2n], accuracy (a tie is wrong) and mean margin."""
    chosen, rejected = by_side(rewards.detach())
    return {
        **side_metrics("rewards", rewards, pairs=pairs),
        "rewards/accuracies": Metric((chosen > rejected).astype("float32").sum() / pairs),
        "rewards/margins": Metric((chosen - rejected).sum() / pairs),
    }
