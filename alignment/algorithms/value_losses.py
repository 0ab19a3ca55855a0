"""The critic's loss, explained variance and correlation. Legend: n rows of a micro-batch, R padded response length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.masked import TokenMean, masked_moments, masked_sum, zero_outside
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
        "critic/value_mean": Metric(mean.average(values).detach()),
        "critic/clip_fraction": Metric(mean.average((clipped_errors > errors).astype(values.dtype)).detach()),
    }
    return Loss(value, metrics)


def explained_variance(values: Tensor, returns: Tensor, *, mask: Tensor) -> Tensor:
    """Return 1 - var(returns - values) / var(returns) (a scalar): 1 is perfect, 0 no better than a constant.

    All [N, R], ``mask`` 1 on real tokens. 0 if the returns do not vary.
    """
    _, total = masked_moments(returns, mask)
    _, left = masked_moments(returns - values, mask)
    explained = 1.0 - left / paddle.clip(total, min=MIN_VARIANCE)
    return paddle.where(total > MIN_VARIANCE, explained, paddle.zeros_like(explained))


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Return the correlation (a scalar) of ``x`` and ``y`` [N], such as rewards and lengths; 0 if one is constant."""
    ones = paddle.ones_like(x)
    x_mean, x_variance = masked_moments(x, ones)
    y_mean, y_variance = masked_moments(y, ones)
    count, products = ones.sum(), masked_sum((x - x_mean) * (y - y_mean), ones)
    spread = paddle.sqrt(x_variance * y_variance)
    varies = paddle.minimum(x_variance, y_variance) > MIN_VARIANCE
    return paddle.where(varies, products / count / paddle.where(varies, spread, ones.sum()), paddle.zeros_like(spread))
