"""What may be added to any loss of pairs: the cross-entropy of the preferred answers, and margins to win by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.preference.answers import PairCounts, by_side
from alignment.fields import argument, where_given

if TYPE_CHECKING:
    from paddle import Tensor

_SMALLEST = 1e-6
"""Added to a margin before its logarithm is taken, as PaddleNLP does."""


@dataclass(frozen=True, kw_only=True)
class TermHyperparameters:
    """Weights of the terms beside the loss of pairs."""

    pref_loss_ratio: float = argument(1.0, minimum=0)
    """Weight of the preference loss."""
    sft_loss_ratio: float = argument(0.0, minimum=0, aliases=("rpo_alpha",))
    """Weight of the cross-entropy of the preferred answers, which keeps them likely: a mean over all their tokens, as
    in PaddleNLP and TRL (rpo_alpha)."""
    nll_loss_coef: float = argument(
        0.0, minimum=0, refused_when=where_given("sft_loss_ratio", "sft_loss_ratio is given too; write one of them")
    )
    """The same weight as OpenRLHF applies it: to a mean over the tokens of each answer, then over answers."""
    margin_scale: float = argument(0.0, minimum=0)
    """Each pair must be won by this times its margin (chosen_score_key and rejected_score_key, or margin_key): the
    product is subtracted from beta times the gap."""
    offset_alpha: float = argument(
        0.0, minimum=0, refused_when=where_given("margin_scale", "margin_scale is given too; write one of them")
    )
    """Weight of the logarithm of each pair's margin, subtracted likewise (ODPO, PaddleNLP)."""

    @property
    def uses_margin(self) -> bool:
        """Whether the loss reads the margin of each pair."""
        return self.margin_scale > 0 or self.offset_alpha > 0


def margin_of(fields: Mapping[str, Tensor], hyperparameters: TermHyperparameters) -> Tensor | None:
    """Return by how much beta times the gap of each pair must exceed 0, [n]; None without margins.

    ``fields``: ``margin`` [n], by how much the better answer is better, not negative.
    """
    if not hyperparameters.uses_margin:
        return None
    if hyperparameters.margin_scale:
        return hyperparameters.margin_scale * fields["margin"]
    return hyperparameters.offset_alpha * paddle.log(fields["margin"] + _SMALLEST)


def answer_cross_entropy(
    logps: Tensor, lengths: Tensor, *, hyperparameters: TermHyperparameters, counts: PairCounts
) -> tuple[float, Tensor]:
    """Return (weight, cross-entropy of the preferred answers) of the whole ``logps`` and their ``lengths``, [2n]."""
    chosen = by_side(logps).chosen
    if hyperparameters.nll_loss_coef:
        return hyperparameters.nll_loss_coef, -(chosen / by_side(lengths).chosen).sum() / counts.pairs
    return hyperparameters.sft_loss_ratio, -chosen.sum() / counts.chosen_tokens


def mean_lengths(lengths: Tensor) -> Tensor:
    """Return for each of the ``lengths`` [2n] the mean of its pair, [2n]."""
    sides = by_side(lengths)
    mean = (sides.chosen + sides.rejected) / 2
    return paddle.concat([mean, mean])
