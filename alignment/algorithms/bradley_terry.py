"""The loss of a reward model, by its hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.preference_losses import (
    SQUARES_WEIGHT,
    PairTerms,
    RegularizationConvention,
    mean_of_span,
    preference_metrics,
    scores_at,
    sequence_preference_loss,
    token_preference_loss,
)
from alignment.fields import Case, argument, where
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor

_NO_COST = where("objective", "cost", why="a cost model has safety labels instead")
_NO_PAIRS = where("objective", "regression", "process", why="it has no pairs")


@dataclass(frozen=True, kw_only=True)
class BradleyTerryHyperparameters:
    """Options of the loss of a reward or cost model."""

    loss_type: Literal["sequence-wise", "token-wise", "logexp", "average"] = argument(
        "sequence-wise",
        aliases=("loss",),
        spellings={"sigmoid": "sequence-wise", "last_token": "sequence-wise", "per_sample": "token-wise"},
        inert_when=_NO_PAIRS,
        refused_when=(
            Case(
                lambda value, s: value in ("logexp", "average") and s.values.get("objective") == "cost",
                "a cost model compares sequence-wise or token-wise",
                "objective is cost and it is logexp or average",
            ),
            Case(
                lambda value, s: value in ("token-wise", "average") and s.values.get("objective") == "gating",
                "a gating network weighs the scores at the last token; compare sequence-wise",
                "objective is gating and it is token-wise or average",
            ),
        ),
    )
    """Compare the scores at the last token (sequence-wise, also written sigmoid or last_token), or at every token from
    where the answers differ (token-wise, also written per_sample), or their means over the tokens of each answer
    (average). logexp is sequence-wise without margins. A model is scored as it was trained: at the last token, or by
    the mean for average; its config.json says so (score_form).
    """
    margin_loss: bool = argument(
        False, inert_when=(where("loss_type", "logexp", why="logexp has no margins"), _NO_COST, _NO_PAIRS)
    )
    """The better answer must win by the pair's margin (margin_key): it is subtracted from the difference of scores."""
    center_rewards_coefficient: float | None = argument(None, minimum=0, inert_when=(_NO_COST, _NO_PAIRS))
    """Weight of the squared sum of both scores, which keeps scores centred on 0 (TRL; about 0.01)."""
    regularization: float = argument(0.0, minimum=0, inert_when=_NO_PAIRS)
    """Weight of the squared scores in the loss (documented in the reference suite: 0.001)."""
    regularization_convention: RegularizationConvention = argument("paddlenlp", inert_when=where("regularization", 0))
    """Add the squared scores of the two answers (paddlenlp) or average them (safe-rlhf, half as large)."""

    @property
    def compares_ends(self) -> bool:
        """Whether the loss reads only the scores at the last tokens."""
        return self.loss_type in ("sequence-wise", "logexp")

    @property
    def uses_margin(self) -> bool:
        """Whether the loss reads the margin of each pair."""
        return self.margin_loss and self.loss_type != "logexp"


def bradley_terry_loss(
    better_scores: Tensor,
    worse_scores: Tensor,
    *,
    fields: Mapping[str, Tensor],
    hyperparameters: BradleyTerryHyperparameters,
    denominator: float | Tensor,
) -> Loss:
    """Return the loss on the scores [n, S] of the better and the worse answer at every position.

    ``fields``: ``better_ends`` and ``worse_ends`` [n] int64, the position of each answer's last token, for the
    token-wise loss ``first_difference`` [n] int64, for ``average`` ``answer_starts`` [2n] int64, and for
    ``margin_loss`` ``margin`` [n]. ``denominator``: the number of pairs in the whole update.
    """
    terms = _terms(fields, hyperparameters)
    if hyperparameters.loss_type == "average":
        start = fields["answer_starts"][: better_scores.shape[0]]
        better, worse = (
            mean_of_span(scores, start, fields[f"{side}_ends"])
            for side, scores in (("better", better_scores), ("worse", worse_scores))
        )
        return sequence_preference_loss(better, worse, terms=terms, denominator=denominator)
    better_end = scores_at(better_scores, fields["better_ends"])
    worse_end = scores_at(worse_scores, fields["worse_ends"])
    if hyperparameters.compares_ends:
        return sequence_preference_loss(better_end, worse_end, terms=terms, denominator=denominator)
    assert hyperparameters.loss_type == "token-wise", hyperparameters.loss_type
    loss = token_preference_loss(
        better_scores,
        worse_scores,
        first_difference=fields["first_difference"],
        last_valid=paddle.maximum(fields["better_ends"], fields["worse_ends"]),
        terms=terms,
        denominator=denominator,
    )
    return Loss(loss.value, {**loss.metrics, **preference_metrics(better_end, worse_end, denominator=denominator)})


def gated_loss(
    scores: Tensor,
    *,
    fields: Mapping[str, Tensor],
    hyperparameters: BradleyTerryHyperparameters,
    denominator: float | Tensor,
) -> Loss:
    """Return the sequence-wise loss on the end scores [2n] of n pairs, all better answers first.

    ``fields`` has ``margin`` [n] for ``margin_loss``; ``denominator`` is the number of pairs in the whole update.
    """
    better, worse = scores.split(2)
    return sequence_preference_loss(better, worse, terms=_terms(fields, hyperparameters), denominator=denominator)


def _terms(fields: Mapping[str, Tensor], hyperparameters: BradleyTerryHyperparameters) -> PairTerms:
    return PairTerms(
        squares=hyperparameters.regularization * SQUARES_WEIGHT[hyperparameters.regularization_convention],
        centring=hyperparameters.center_rewards_coefficient or 0.0,
        margin=fields["margin"] if hyperparameters.uses_margin else None,
    )
