"""Estimators of KL(policy || reference) from the log-probs of sampled tokens, and the adaptive coefficient.

Schulman, "Approximating KL divergence" (2020): with d = log(policy / reference) on tokens sampled from the policy,
k1 = d (unbiased, may be negative), k2 = d^2 / 2 (biased, low variance), k3 = exp(-d) - 1 + d (unbiased, >= 0);
abs = |d| (verl).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.masked import TokenMean
from alignment.metrics import Metric

if TYPE_CHECKING:
    from paddle import Tensor

KLKind = Literal["k1", "k2", "k3", "abs"]
KLLossKind = Literal["k1", "k2", "k3", "abs", "k1+", "k3+", "abs+"]
"""In a loss; with a ``+``, the value of that estimate has the gradient of k2."""

LOG_RATIO_LIMIT = 20.0
"""exp(89) overflows float32, and inf times a zero advantage is NaN. e^20 is beyond every clip range, so clamping the
log-ratio here changes no ratio that a loss would use."""

MAX_KL_ERROR = 0.2
"""Limit of the relative error in the adaptive controller (Ziegler et al. 2019, section 2.2)."""


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, *, kind: KLKind = "k1", clamp: float | None = None) -> Tensor:
    """Estimate the KL of each token; inputs and output [N, R]; ``clamp`` limits the estimate to +-clamp."""
    log_ratio = logprobs - ref_logprobs
    if kind == "k1":
        estimate = log_ratio
    elif kind == "k2":
        estimate = 0.5 * log_ratio**2
    elif kind == "abs":
        estimate = paddle.abs(log_ratio)
    else:
        assert kind == "k3", kind
        limited = paddle.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        estimate = paddle.expm1(-limited) + limited
    return estimate if clamp is None else paddle.clip(estimate, -clamp, clamp)


def kl_loss(logprobs: Tensor, ref_logprobs: Tensor, *, kind: KLLossKind, clamp: float | None = None) -> Tensor:
    """Return each token's KL for use as a loss term; as ``kl_estimate``, or with a ``+`` with the gradient of k2.

    In expectation over tokens of the policy, the gradient of k2 is that of the KL itself, that of k1 is 0, and that of
    k3 is the gradient of the reverse KL. A clamped estimate has no gradient, except with a ``+``.
    """
    plain = kind.removesuffix("+")
    estimate = kl_estimate(logprobs, ref_logprobs, kind=plain, clamp=clamp)  # type: ignore[arg-type]
    if plain == kind:
        return estimate
    carrier = kl_estimate(logprobs, ref_logprobs, kind="k2")
    return estimate.detach() + carrier - carrier.detach()


def kl_with_unbiased_gradient(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    *,
    old_logprobs: Tensor,
    kind: KLKind = "k1",
    weight_limit: float = 10.0,
) -> Tensor:
    """Return the value of ``kl_estimate`` with the gradient of the KL itself, [N, R], for use as a loss term.

    Differentiating k1 gives an expected gradient of zero, and k3 the gradient of the reverse KL; the KL's own gradient
    is w * d * grad(log policy) with w = policy / old policy, here limited to ``weight_limit`` and held constant.
    """
    value = kl_estimate(logprobs, ref_logprobs, kind=kind).detach()
    limited = paddle.clip(logprobs - old_logprobs, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    weight = paddle.clip(paddle.exp(limited), max=weight_limit)
    slope = (weight * (logprobs - ref_logprobs)).detach()
    return value + slope * (logprobs - logprobs.detach())


def kl_metrics(
    logprobs: Tensor, ref_logprobs: Tensor, *, mean: TokenMean, weights: Tensor | None = None
) -> dict[str, Metric]:
    """Return ``kl/k1``, ``kl/k2`` and ``kl/k3`` to the reference; inputs [n, R].

    ``weights`` [n, R] are policy / sampler of tokens that another policy drew. They are not divided by their mean: each
    estimate stays one of the policy's KL after the sampled beginnings, and truncated weights make it smaller.
    """
    kinds: tuple[KLKind, ...] = ("k1", "k2", "k3")
    estimates = {kind: kl_estimate(logprobs, ref_logprobs, kind=kind) for kind in kinds}
    if weights is not None:
        estimates = {kind: value * weights for kind, value in estimates.items()}
    return {f"kl/{kind}": Metric(mean.of(value).detach()) for kind, value in estimates.items()}


def adapt_kl_coeff(kl_coeff: float, observed_kl: float, *, target: float, horizon: float, num_rows: int) -> float:
    """Return the next KL coefficient: it grows while the KL is above ``target`` (Ziegler et al. 2019, section 2.2).

    ``horizon`` is the number of rows over which the largest error multiplies the coefficient by about 1.2; ``num_rows``
    is the number of rows (all ranks) with which the KL was observed.
    """
    error = min(max(observed_kl / target - 1.0, -MAX_KL_ERROR), MAX_KL_ERROR)
    return kl_coeff * (1.0 + error * num_rows / horizon)
