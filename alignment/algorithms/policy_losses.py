"""The clipped policy loss and the entropy bonus. Legend: n rows of a micro-batch, R padded response length."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.kl import LOG_RATIO_LIMIT
from alignment.algorithms.masked import TokenMean, zero_outside
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


class RatioClip(NamedTuple):
    """The clip range of the ratio policy / old policy: 1 - low to 1 + high."""

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None
    """For a negative advantage A the loss is at most -dual * A (> 1; None: no limit; Ye et al. 2020, equation 8)."""


def ppo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    *,
    advantages: Tensor,
    clip: RatioClip,
    mean: TokenMean,
    weights: Tensor | None = None,
) -> Loss:
    """Return the mean of max(-A r, -A clip(r)) with r = exp(logprobs - old_logprobs) (Schulman et al. 2017, eq. 7).

    ``logprobs``, ``old_logprobs`` and ``advantages`` are [n, R]; only the first has a gradient. ``weights`` [n, R]
    multiply each token's clipped loss (see ``importance.py``) and do not change the denominator. Metrics:
    ``policy/loss`` and those of ``_ratio_metrics``.
    """
    log_ratio = logprobs - old_logprobs
    ratio = paddle.exp(paddle.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    unclipped = -advantages * ratio
    clipped = -advantages * paddle.clip(ratio, 1.0 - clip.low, 1.0 + clip.high)
    losses = _bound_negative(paddle.maximum(unclipped, clipped), advantages, clip.dual)
    value = mean.of(losses if weights is None else losses * weights)
    is_clipped = (clipped > unclipped).astype(ratio.dtype)
    return Loss(value, {"policy/loss": Metric(value.detach()), **_ratio_metrics(log_ratio, ratio, is_clipped, mean)})


def entropy_bonus(entropy: Tensor, *, coeff: float, mean: TokenMean) -> Loss:
    """Return -coeff times the mean of ``entropy`` [n, R] in nats; metric ``policy/entropy`` (no coefficient)."""
    return Loss(-coeff * mean.of(entropy), {"policy/entropy": Metric(mean.average(entropy).detach())})


def _bound_negative(losses: Tensor, advantages: Tensor, dual: float | None) -> Tensor:
    if dual is None:
        return losses
    return paddle.where(advantages < 0, paddle.minimum(losses, -dual * advantages), losses)


def _ratio_metrics(log_ratio: Tensor, ratio: Tensor, is_clipped: Tensor, mean: TokenMean) -> dict[str, Metric]:
    """Return clip fraction, mean and maximum of the ratio, and the k1 and k3 estimates of KL(old policy || policy)."""
    return {
        "policy/clip_fraction": Metric(mean.average(is_clipped).detach()),
        "policy/ratio_mean": Metric(mean.average(ratio).detach()),
        "policy/ratio_max": Metric(zero_outside(ratio, mean.mask).max().detach(), "max"),
        "policy/approx_kl": Metric(mean.average(-log_ratio).detach()),
        "policy/approx_kl_k3": Metric(mean.average(ratio - 1.0 - log_ratio).detach()),
    }
