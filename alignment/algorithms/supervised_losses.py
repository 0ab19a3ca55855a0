"""Cross-entropy for supervised fine-tuning and for the PTX loss of PPO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignment.fields import argument
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


def cross_entropy(logprobs: Tensor, *, denominator: float | Tensor) -> Loss:
    """Return -sum(logprobs) / denominator in nats; metric ``supervised/loss``.

    ``logprobs`` [T] are those of a micro-batch's target tokens; ``denominator`` is their number in the whole update.
    """
    value = -logprobs.sum() / denominator
    return Loss(value, {"supervised/loss": Metric(value.detach())})


@dataclass(frozen=True, kw_only=True)
class SupervisedHyperparameters:
    """Options of the loss of supervised fine-tuning."""

    label_smoothing: float = argument(0.0, minimum=0, below=1, aliases=("label_smoothing_factor",))
    """Share of every target that is spread evenly over the vocabulary, the target's own token included."""


def sft_loss(
    output: tuple[Tensor, Tensor | None],
    *,
    fields: Mapping[str, Tensor],
    hyperparameters: SupervisedHyperparameters,
    denominator: float | Tensor,
) -> Loss:
    """Return the cross-entropy (metric ``sft/loss``) over ``denominator`` target tokens.

    ``output`` are log-probs [T] of the targets and, for label smoothing, those averaged over the vocabulary [T]; then
    the cross-entropy without smoothing is the metric ``sft/nll``.
    """
    logprobs, averages = output
    plain = cross_entropy(logprobs, denominator=denominator).value
    if averages is None:
        return Loss(plain, {"sft/loss": Metric(plain.detach())})
    share = hyperparameters.label_smoothing
    value = (1 - share) * plain + share * cross_entropy(averages, denominator=denominator).value
    return Loss(value, {"sft/loss": Metric(value.detach()), "sft/nll": Metric(plain.detach())})
