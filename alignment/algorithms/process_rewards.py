"""The loss of a process reward model (Lightman et al. 2023, Math-Shepherd)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignment.algorithms.late_paddle import functional as F
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


def process_loss(
    scores: Tensor, *, fields: Mapping[str, Tensor], hyperparameters: Any, denominator: float | Tensor
) -> Loss:
    """Return the mean cross-entropy of the labels of steps, whose probability to be good is sigmoid(score).

    ``scores`` [n, S] are those of all tokens; ``fields``: ``step_labels`` [n, S] from 0 to 1 and ``is_step`` [n, S], 1
    at the tokens that end a step. ``denominator``: the number of labels in the whole update. There are no
    ``hyperparameters``. With two reward tokens the softmax over their logits (OpenRLHF) is the same function of the
    difference of these logits. Metrics: ``process/loss`` and ``process/accuracy``.
    """
    labels, is_step = fields["step_labels"], fields["is_step"]
    # Paddle's own cross-entropy with logits has a wrong gradient at a score of exactly 0.
    losses = -(labels * F.log_sigmoid(scores) + (1 - labels) * F.log_sigmoid(-scores))
    value = (losses * is_step).sum() / denominator
    right = ((scores.detach() > 0) == (labels > 0.5)).astype("float32")
    accuracy = (right * is_step).sum() / denominator
    return Loss(value, {"process/loss": Metric(value.detach()), "process/accuracy": Metric(accuracy)})
