"""Answers of a pair side by side: what all losses on log-probs of answers share. Legend: n pairs."""

from __future__ import annotations

from typing import NamedTuple

from paddle import Tensor

from alignment.metrics import Metric


class PairCounts(NamedTuple):
    """What all micro-batches of an update hold together: the denominators of their losses."""

    pairs: int
    chosen_tokens: int
    """Response tokens of the preferred answers."""


class Sides(NamedTuple):
    """One number for each answer, [n] each."""

    chosen: Tensor
    rejected: Tensor


def by_side(rows: Tensor) -> Sides:
    """Return the halves of ``rows`` [2n], which holds all preferred answers first."""
    num_pairs = rows.shape[0] // 2
    return Sides(rows[:num_pairs], rows[num_pairs:])


def side_metrics(prefix: str, rows: Tensor, *, pairs: int) -> dict[str, Metric]:
    """Return the means over pairs of both sides of ``rows`` [2n] as ``PREFIX/chosen`` and ``PREFIX/rejected``."""
    sides = by_side(rows.detach())
    return {f"{prefix}/{name}": Metric(side.sum() / pairs) for name, side in zip(sides._fields, sides, strict=True)}


def reward_metrics(rewards: Tensor, *, pairs: int) -> dict[str, Metric]:
    """Return means of implicit ``rewards`` [2n], how often the preferred answer has more (a tie is wrong), the gap."""
    chosen, rejected = by_side(rewards.detach())
    return {
        **side_metrics("rewards", rewards, pairs=pairs),
        "rewards/accuracies": Metric((chosen > rejected).astype("float32").sum() / pairs),
        "rewards/margins": Metric((chosen - rejected).sum() / pairs),
    }
