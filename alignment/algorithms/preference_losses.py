"""Losses on pairs of answers: Bradley-Terry reward models and cost models.

Legend: n pairs of a micro-batch, S padded sequence length. ``denominator`` is the number of pairs in the whole update,
so the losses of micro-batches add up. OpenRLHF's "logexp" loss, log(1 + exp(worse - better)), is the same without
margins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.late_paddle import functional as F
from alignment.algorithms.masked import masked_mean
from alignment.errors import DataError
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor

RegularizationConvention = Literal["paddlenlp", "safe-rlhf"]

SQUARES_WEIGHT: dict[str, float] = {"paddlenlp": 1.0, "safe-rlhf": 0.5}
"""PaddleNLP adds the mean squares of both sides; safe-rlhf averages over both sides, which is half of that."""


class SafetySigns(NamedTuple):
    """+1 for a safe answer, -1 for an unsafe one; both [n]."""

    safer: Tensor
    unsafer: Tensor


class PairTerms(NamedTuple):
    """What a pair's loss has beside its scores."""

    squares: float = 0.0
    """Weight of better^2 + worse^2."""
    centring: float = 0.0
    """Weight of (better + worse)^2 (Eisenstein et al. 2023)."""
    margin: Tensor | None = None
    """[n], by how much the better answer must win."""


PLAIN = PairTerms()
"""Nothing beside the scores."""


def first_difference(
    better_ids: np.ndarray, worse_ids: np.ndarray, *, better_lengths: np.ndarray, worse_lengths: np.ndarray
) -> np.ndarray:
    """Return the first position [n] int64 at which two right-padded sequences [n, S] differ.

    The end of the shorter sequence counts as a difference. Identical pairs raise ``DataError``.
    """
    positions = np.arange(better_ids.shape[1])[None, :]
    ended = (positions < better_lengths[:, None]) != (positions < worse_lengths[:, None])
    real = positions < np.minimum(better_lengths, worse_lengths)[:, None]
    differs = ended | (real & (better_ids != worse_ids))
    identical = np.flatnonzero(~differs.any(axis=1))
    if identical.size:
        raise DataError(f"both answers are identical in row(s) {identical.tolist()} of the batch: nothing to prefer")
    return differs.argmax(axis=1).astype(np.int64)


def scores_at(scores: Tensor, positions: Tensor) -> Tensor:
    """Return the score [n] of each row of ``scores`` [n, S] at ``positions`` [n] int64."""
    return paddle.take_along_axis(scores, positions.unsqueeze(-1), axis=1).squeeze(-1)


def mean_of_span(x: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Return the mean [n] of each row of ``x`` [n, S] over positions ``first`` [n] to ``last`` [n] inclusive."""
    positions = paddle.arange(x.shape[1]).unsqueeze(0)
    inside = paddle.logical_and(positions >= first.unsqueeze(-1), positions <= last.unsqueeze(-1))
    return masked_mean(x, inside.astype("float32"), dim=-1)


def sequence_preference_loss(
    better_end: Tensor,
    worse_end: Tensor,
    *,
    terms: PairTerms = PLAIN,
    denominator: float | Tensor,
) -> Loss:
    """Return the mean of -log sigmoid(better - worse - margin) and the other terms (Ouyang et al. 2022, eq. 1).

    ``better_end`` and ``worse_end`` are [n], the scores at the last real tokens. Metrics: ``preference/loss`` and those
    of ``preference_metrics``.
    """
    value = _pair_losses(better_end, worse_end, terms).sum() / denominator
    metrics = preference_metrics(better_end, worse_end, denominator=denominator)
    return Loss(value, {"preference/loss": Metric(value.detach()), **metrics})


def token_preference_loss(
    better_scores: Tensor,
    worse_scores: Tensor,
    *,
    first_difference: Tensor,
    last_valid: Tensor,
    terms: PairTerms = PLAIN,
    denominator: float | Tensor,
) -> Loss:
    """Like ``sequence_preference_loss``, averaged in each pair over ``first_difference`` to ``last_valid`` inclusive.

    Scores are [n, S], positions [n]; ``last_valid`` is the later end of the two answers. Metric: ``preference/loss``;
    accuracy needs each answer's own end, see ``preference_metrics``.
    """
    margin = None if terms.margin is None else terms.margin.unsqueeze(-1)
    losses = _pair_losses(better_scores, worse_scores, terms._replace(margin=margin))
    value = mean_of_span(losses, first_difference, last_valid).sum() / denominator
    return Loss(value, {"preference/loss": Metric(value.detach())})


def _pair_losses(better: Tensor, worse: Tensor, terms: PairTerms) -> Tensor:
    """Return the loss of each pair of scores."""
    gap = better - worse if terms.margin is None else better - worse - terms.margin
    losses = -F.log_sigmoid(gap) + terms.squares * (better**2 + worse**2)
    return losses + terms.centring * (better + worse) ** 2 if terms.centring else losses


def preference_metrics(better_end: Tensor, worse_end: Tensor, *, denominator: float | Tensor) -> dict[str, Metric]:
    """Return accuracy (a tie is wrong), mean margin and mean score of both sides from the end scores [n]."""
    better, worse = better_end.detach(), worse_end.detach()
    return {
        "preference/accuracy": Metric((better > worse).astype(better.dtype).sum() / denominator),
        "preference/margin": Metric((better - worse).sum() / denominator),
        "preference/score": Metric((better + worse).sum() / (2.0 * denominator)),
    }


def sequence_cost_loss(
    safer_end: Tensor,
    unsafer_end: Tensor,
    *,
    signs: SafetySigns,
    regularization: float = 0.0,
    denominator: float | Tensor,
) -> Loss:
    """Return the cost model loss on end costs [n] (Dai et al. 2023, eq. 6); a safe answer should cost less than 0.

    -log sigmoid(unsafer - safer) and, for each side, -log sigmoid(-sign * cost). Squares as in safe-rlhf. Metrics:
    ``cost/loss`` and those of ``cost_metrics``.
    """
    losses = _cost_losses(safer_end, unsafer_end, signs=signs, regularization=regularization)
    value = losses.sum() / denominator
    metrics = cost_metrics(safer_end, unsafer_end, signs=signs, denominator=denominator)
    return Loss(value, {"cost/loss": Metric(value.detach()), **metrics})


def token_cost_loss(
    safer_costs: Tensor,
    unsafer_costs: Tensor,
    *,
    signs: SafetySigns,
    first_difference: Tensor,
    last_valid: Tensor,
    regularization: float = 0.0,
    denominator: float | Tensor,
) -> Loss:
    """Like ``sequence_cost_loss``, on costs [n, S] averaged over the span as in ``token_preference_loss``."""
    by_token = SafetySigns(signs.safer.unsqueeze(-1), signs.unsafer.unsqueeze(-1))
    losses = _cost_losses(safer_costs, unsafer_costs, signs=by_token, regularization=regularization)
    value = mean_of_span(losses, first_difference, last_valid).sum() / denominator
    return Loss(value, {"cost/loss": Metric(value.detach())})


def cost_metrics(
    safer_end: Tensor, unsafer_end: Tensor, *, signs: SafetySigns, denominator: float | Tensor
) -> dict[str, Metric]:
    """Return how often the safer answer costs less, and how often a cost has the right sign; all [n]."""
    safer, unsafer = safer_end.detach(), unsafer_end.detach()
    right = (signs.safer * safer < 0).astype(safer.dtype) + (signs.unsafer * unsafer < 0).astype(safer.dtype)
    return {
        "cost/accuracy": Metric((safer < unsafer).astype(safer.dtype).sum() / denominator),
        "cost/sign_accuracy": Metric(right.sum() / (2.0 * denominator)),
    }


def _cost_losses(safer: Tensor, unsafer: Tensor, *, signs: SafetySigns, regularization: float) -> Tensor:
    ranking = -F.log_sigmoid(unsafer - safer)
    labels = -F.log_sigmoid(-signs.safer * safer) - F.log_sigmoid(-signs.unsafer * unsafer)
    return ranking + labels + regularization * SQUARES_WEIGHT["safe-rlhf"] * (safer**2 + unsafer**2)
