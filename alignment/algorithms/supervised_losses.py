"""Next-token loss for supervised fine-tuning and for the supervised (PTX) term of PPO."""

from __future__ import annotations

from collections.abc import Mapping

from paddle import Tensor

from alignment.metrics import Metric
from alignment.records import Loss


def cross_entropy(logprobs: Tensor, *, denominator: float | Tensor) -> Loss:
    """Return -sum(logprobs) / denominator in nats; metric ``supervised/loss``.

    ``logprobs`` [T] of the target tokens of a micro-batch; ``denominator``: the target tokens of the whole update.
    """
    value = -logprobs.sum() / denominator
    return Loss(value, {"supervised/loss": Metric(value.detach())})


def sft_loss(
    logprobs: Tensor, *, fields: Mapping[str, Tensor], hyperparameters: None, denominator: float | Tensor
) -> Loss:
    """Return ``cross_entropy`` as an offline objective, which has no fields and no hyperparameters; ``sft/loss``."""
    value = cross_entropy(logprobs, denominator=denominator).value
    return Loss(value, {"sft/loss": Metric(value.detach())})
