"""Importance weights for samples drawn by another implementation of the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.kl import LOG_RATIO_LIMIT
from alignment.algorithms.masked import zero_outside

if TYPE_CHECKING:
    from paddle import Tensor


def truncated_importance_weights(logprobs: Tensor, rollout_logprobs: Tensor, *, mask: Tensor, cap: float) -> Tensor:
    """Return min(exp(logprobs - rollout_logprobs), cap) per token: [N, R] float32, zero under ``mask``, no gradient.

    ``logprobs`` [N, R] are the policy's as the trainer computes them before the update, ``rollout_logprobs`` [N, R]
    those of the engine that sampled; the weight is 1 where they agree. A weighted mean over the engine's tokens then
    estimates one over the trainer's, given the preceding tokens; truncation bounds its variance and biases it towards
    the engine (weights of V-trace: Espeholt et al. 2018, IMPALA, section 4.1; per token against the mismatch of engine
    and trainer: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training").
    """
    log_ratio = logprobs.detach().astype("float32") - rollout_logprobs.detach().astype("float32")
    return zero_outside(paddle.clip(paddle.exp(paddle.clip(log_ratio, max=LOG_RATIO_LIMIT)), max=cap), mask)
