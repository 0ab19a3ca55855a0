"""The critic's loss, explained variance and correlation. Legend: n rows of a micro-batch, R padded response length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.masked import ROUNDINGS, TokenMean, zero_outside
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor

MIN_VARIANCE = 1e-12
"""A smaller variance is rounding error; dividing by it would report noise."""


def clipped_value_loss(
    values: Tensor, old_values: Tensor, *, returns: Tensor, clip_range: float | None, mean: TokenMean
) -> Loss:
    """Return the mean of 0.5 max((V - G)^2, (V_clipped - G)^2), V_clipped within +-clip_range of the old value.

    ``values`` [n, R] has a gradient, ``old_values`` and ``returns`` [n, R] do not; ``clip_range`` None: no clipping.
    Metrics: ``critic/loss``, ``critic/value_mean``, and ``critic/clip_fraction``, the share of tokens whose clipped
    loss is the larger one.
    """
    # The mean ignores padding too, but the gradient of the square there would be 2 * x * 0: NaN if x is.
    values = zero_outside(values, mean.mask)
    errors = (values - returns) ** 2
    clipped_errors = errors
    if clip_range is not None:
        # Not old + clip(values - old), whose rounding would count values inside the range as clipped.
        clipped = paddle.minimum(paddle.maximum(values, old_values - clip_range), old_values + clip_range)
        clipped_errors = (clipped - returns) ** 2
    value = mean.of(0.5 * paddle.maximum(errors, clipped_errors))
    metrics = {
        "critic/loss": Metric(value.detach()),
        "critic/value_mean": Metric(mean.average(values.detach())),
        "critic/clip_fraction": Metric(mean.average((clipped_errors > errors).astype(values.dtype))),
    }
    return Loss(value, metrics)


def explained_variance(values: np.ndarray, returns: np.ndarray, *, mask: np.ndarray) -> float:
    """Return 1 - var(returns - values) / var(returns): 1 is perfect, 0 no better than a constant.

    All [N, R], ``mask`` 1 on real tokens. 0 if the returns do not vary.
    """
    on = mask > 0
    total, left = _variance(returns[on]), _variance(returns[on] - values[on])
    return 1.0 - left / total if total > MIN_VARIANCE else 0.0


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Return the correlation of ``x`` and ``y`` [N], such as rewards and lengths; 0 if one is constant."""
    x_variance, y_variance = _variance(x), _variance(y)
    if min(x_variance, y_variance) <= MIN_VARIANCE:
        return 0.0
    x, y = (numbers.astype(np.float64) for numbers in (x, y))
    return float(((x - x.mean()) * (y - y.mean())).mean() / np.sqrt(x_variance * y_variance))


def _variance(x: np.ndarray) -> float:
    """Return the variance of ``x`` [n], 0 if it is no more than the rounding of equal numbers, or if there are none."""
    if not x.size:
        return 0.0
    wide = x.astype(np.float64)
    variance, noise = wide.var(), (ROUNDINGS * np.finfo(x.dtype).eps * wide.mean()) ** 2
    return float(variance) if variance > noise else 0.0
