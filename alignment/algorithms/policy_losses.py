"""Policy losses and the entropy bonus. Legend: n rows of a micro-batch, R padded response length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.kl import LOG_RATIO_LIMIT
from alignment.algorithms.masked import TokenMean, masked_mean, masked_sum, zero_outside
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


RatioLevel = Literal["token", "sequence", "sequence_token", "sequence_product"]
"""What has one ratio of new to old probability. ``token``: each token. ``sequence``: each row, the geometric mean of
its tokens' ratios (Zheng et al. 2025, "Group Sequence Policy Optimization", equation 7). ``sequence_token``: the same
value, with the gradient of each token's own log-prob (equation 14). ``sequence_product``: each row, the product of its
tokens' ratios, which is the ratio of the whole response (Ahmadian et al. 2024, "Back to Basics").
"""


class RatioClip(NamedTuple):
    """The clip range of the ratio policy / old policy: 1 - low to 1 + high."""

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None
    """For a negative advantage A the loss is at most -dual * A (> 1; None: no limit; Ye et al. 2020, equation 8)."""
    level: RatioLevel = "token"


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
    ``policy/loss``, ``policy/dual_clip_fraction`` with a dual clip, and those of ``_ratio_metrics``.
    """
    log_ratio, ratio = _ratios(logprobs, old_logprobs, mask=mean.mask, level=clip.level)
    unclipped = -advantages * ratio
    clipped = -advantages * paddle.clip(ratio, 1.0 - clip.low, 1.0 + clip.high)
    losses = paddle.maximum(unclipped, clipped)
    bounded = _bound_negative(losses, advantages, clip.dual)
    loss = _weighted(bounded, mean, weights)
    is_clipped = (clipped > unclipped).astype(ratio.dtype)
    if clip.dual is not None:
        is_bounded = (bounded < losses).astype(ratio.dtype)
        loss.metrics["policy/dual_clip_fraction"] = Metric(mean.average(is_bounded))
    return Loss(loss.value, loss.metrics | _ratio_metrics(log_ratio, ratio, is_clipped, mean))


def cispo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    *,
    advantages: Tensor,
    cap: float,
    level: RatioLevel,
    mean: TokenMean,
    weights: Tensor | None = None,
) -> Loss:
    """Return the mean of -min(r, cap) A log-prob, without a gradient by r (MiniMax 2025, "MiniMax-M1", equation 4).

    No token loses its gradient; the clip fraction is the share of tokens with r above ``cap``. Arguments and metrics as
    ``ppo_policy_loss``.
    """
    log_ratio, ratio = _ratios(logprobs.detach(), old_logprobs, mask=mean.mask, level=level)
    losses = -paddle.clip(ratio, max=cap) * advantages * logprobs
    loss = _weighted(losses, mean, weights)
    return Loss(loss.value, loss.metrics | _ratio_metrics(log_ratio, ratio, (ratio > cap).astype(ratio.dtype), mean))


def sapo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    *,
    advantages: Tensor,
    temperatures: tuple[float, float],
    level: RatioLevel,
    mean: TokenMean,
    weights: Tensor | None = None,
) -> Loss:
    """Return the mean of -A (4 / t) sigmoid(t (r - 1)) (Gao et al. 2025, "Soft Adaptive Policy Optimization", eq. 6).

    ``temperatures`` are t for positive and for other advantages A; the gradient by r, 4 s (1 - s) A with the sigmoid s,
    is A at r = 1 and fades with the distance from it. There is no clip: ``policy/clip_fraction`` is 0. Arguments and
    metrics as ``ppo_policy_loss``.
    """
    log_ratio, ratio = _ratios(logprobs, old_logprobs, mask=mean.mask, level=level)
    positive, negative = (paddle.full_like(advantages, t) for t in temperatures)
    slope = paddle.where(advantages > 0, positive, negative)
    losses = -advantages * (4.0 / slope) * paddle.nn.functional.sigmoid(slope * (ratio - 1.0))
    loss = _weighted(losses, mean, weights)
    return Loss(loss.value, loss.metrics | _ratio_metrics(log_ratio, ratio, paddle.zeros_like(ratio), mean))


def entropy_bonus(entropy: Tensor, *, coeff: float, mean: TokenMean) -> Loss:
    """Return -coeff times the mean of ``entropy`` [n, R] in nats; metric ``policy/entropy`` (no coefficient)."""
    return Loss(-coeff * mean.of(entropy), {"policy/entropy": Metric(mean.average(entropy.detach()))})


def _bound_negative(losses: Tensor, advantages: Tensor, dual: float | None) -> Tensor:
    if dual is None:
        return losses
    return paddle.where(advantages < 0, paddle.minimum(losses, -dual * advantages), losses)


def _ratios(logprobs: Tensor, old_logprobs: Tensor, *, mask: Tensor, level: RatioLevel) -> tuple[Tensor, Tensor]:
    """Return each token's own log-ratio, and the ratio that its loss uses, both [n, R]."""
    log_ratio = logprobs - old_logprobs
    used = log_ratio
    if level != "token":
        over_row = masked_sum if level == "sequence_product" else masked_mean
        used = over_row(log_ratio, mask, dim=-1).unsqueeze(-1).expand_as(log_ratio)
    if level == "sequence_token":
        used = used.detach() + logprobs - logprobs.detach()
    return log_ratio, paddle.exp(paddle.clip(used, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


def _weighted(losses: Tensor, mean: TokenMean, weights: Tensor | None) -> Loss:
    value = mean.of(losses if weights is None else losses * weights)
    return Loss(value, {"policy/loss": Metric(value.detach())})


def _ratio_metrics(log_ratio: Tensor, ratio: Tensor, is_clipped: Tensor, mean: TokenMean) -> dict[str, Metric]:
    """Return clip fraction, mean and maximum of the ratio, and the k1 and k3 estimates of KL(old policy || policy).

    The estimates are those of tokens, with ``log_ratio``, whatever ``ratio`` is of.
    """
    log_ratio, ratio = log_ratio.detach(), ratio.detach()
    own_ratio = paddle.exp(paddle.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    return {
        "policy/clip_fraction": Metric(mean.average(is_clipped)),
        "policy/ratio_mean": Metric(mean.average(ratio)),
        "policy/ratio_max": Metric(zero_outside(ratio, mean.mask).max(), "max"),
        "policy/approx_kl": Metric(mean.average(-log_ratio)),
        "policy/approx_kl_k3": Metric(mean.average(own_ratio - 1.0 - log_ratio)),
    }
