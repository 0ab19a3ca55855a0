"""Cross-entropy for supervised fine-tuning and for the PTX loss of PPO."""

from __future__ import annotations

from collections.abc import Mapping

from paddle import Tensor

from alignment.metrics import Metric
from alignment.records import Loss


def cross_entropy(logprobs: Tensor, *, denominator: float | Tensor) -> Loss:
    """Return -sum(logprobs) / denominator in nats; metric ``supervised/loss``.

    ``logprobs`` [T] are those of a micro-batch's target tokens; ``denominator`` is their number in the whole update.
    """
    value = -logprobs.sum() / denominator
    return Loss(value, {"supervised/loss": Metric(value.detach())})


def sft_loss(
    logprobs: Tensor, *, fields: Mapping[str, Tensor], hyperparameters: None, denominator: float | Tensor
) -> Loss:
    """Return ``cross_entropy`` as an offline objective without hyperparameters; metric ``sft/loss``."""
    value = cross_entropy(logprobs, denominator=denominator).value
    return Loss(value, {"sft/loss": Metric(value.detach())})
