"""The loss of a reward model that predicts attributes, such as helpfulness (Wang et al. 2023, HelpSteer)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignment.algorithms import late_paddle as paddle
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


def regression_loss(
    scores: Tensor, *, fields: Mapping[str, Tensor], hyperparameters: Any, denominator: float | Tensor
) -> Loss:
    """Return the mean squared error of the predicted attributes [n, k] over all known values.

    ``fields``: ``attributes`` [n, k] and ``known`` [n, k], 1 where a value is given. ``denominator``: the number of
    known values in the whole update. There are no ``hyperparameters``. Metric: ``regression/loss``.
    """
    errors = (scores - fields["attributes"]) ** 2
    value = paddle.where(fields["known"] > 0, errors, paddle.zeros_like(errors)).sum() / denominator
    return Loss(value, {"regression/loss": Metric(value.detach())})
