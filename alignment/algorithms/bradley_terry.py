"""The loss of a reward model, by its hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import paddle
from paddle import Tensor

from alignment.algorithms.preference_losses import (
    RegularizationConvention,
    preference_metrics,
    scores_at,
    sequence_preference_loss,
    token_preference_loss,
)
from alignment.fields import argument, where
from alignment.records import Loss


@dataclass(frozen=True, kw_only=True)
class BradleyTerryHyperparameters:
    """Options of the loss of a reward or cost model."""

    loss_type: Literal["sequence-wise", "token-wise"] = "sequence-wise"
    """Compare the scores at the last token, or at every token from where the answers differ."""
    regularization: float = argument(0.0, minimum=0)
    """Weight of the squared scores in the loss (documented in the reference suite: 0.001)."""
    regularization_convention: RegularizationConvention = argument("paddlenlp", inert_when=where("regularization", 0))
    """Add the squared scores of the two answers (paddlenlp) or average them (safe-rlhf, half as large)."""


def bradley_terry_loss(
    better_scores: Tensor,
    worse_scores: Tensor,
    *,
    fields: Mapping[str, Tensor],
    hyperparameters: BradleyTerryHyperparameters,
    denominator: float | Tensor,
) -> Loss:
    """Return the loss on the scores [n, S] of the better and the worse answer at every position.

    ``fields``: ``better_ends`` and ``worse_ends`` [n] int64, the position of each answer's last token, and for the
    token-wise loss ``first_difference`` [n] int64. ``denominator``: the number of pairs in the whole update.
    """
    squares = {
        "regularization": hyperparameters.regularization,
        "regularization_convention": hyperparameters.regularization_convention,
    }
    better_end = scores_at(better_scores, fields["better_ends"])
    worse_end = scores_at(worse_scores, fields["worse_ends"])
    if hyperparameters.loss_type == "sequence-wise":
        return sequence_preference_loss(better_end, worse_end, denominator=denominator, **squares)
    assert hyperparameters.loss_type == "token-wise", hyperparameters.loss_type
    loss = token_preference_loss(
        better_scores,
        worse_scores,
        first_difference=fields["first_difference"],
        last_valid=paddle.maximum(fields["better_ends"], fields["worse_ends"]),
        denominator=denominator,
        **squares,
    )
    return Loss(loss.value, {**loss.metrics, **preference_metrics(better_end, worse_end, denominator=denominator)})
