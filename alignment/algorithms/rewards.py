"""Turn one score per response into one reward per token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.masked import zero_outside

if TYPE_CHECKING:
    from paddle import Tensor

ClipPlacement = Literal["score", "token"]
"""``score``: the score is clipped, then added (PaddleNLP, safe-rlhf until 2023-10, OpenRLHF);
``token``: every sum of score and KL penalty is clipped (safe-rlhf since 2023-12)."""


def last_token_mask(mask: Tensor) -> Tensor:
    """Return [N, R] with 1 on the last real token of each row of ``mask`` [N, R]; an empty row stays zero."""
    remaining = paddle.flip(paddle.cumsum(paddle.flip(mask, axis=[1]), axis=1), axis=[1])
    return mask * (remaining == 1).astype(mask.dtype)


def kl_rewards(kl: Tensor, *, mask: Tensor, kl_coeff: float) -> Tensor:
    """Return the KL part of the rewards [N, R], before clipping: -kl_coeff * kl; zero under the mask."""
    return zero_outside(-kl_coeff * kl, mask)


def shape_rewards(
    scores: Tensor,
    kl: Tensor,
    *,
    mask: Tensor,
    kl_coeff: float,
    clip_range_score: float | None,
    clip_placement: ClipPlacement = "score",
) -> Tensor:
    """Return rewards [N, R]: -kl_coeff * kl on each token, plus the score on the last real one; zero under the mask.

    ``scores`` [N], ``kl`` [N, R] (``kl_estimate``), ``mask`` [N, R] with 1 on real tokens. ``clip_placement`` says what
    is clipped to +-clip_range_score (None: nothing). A row without real tokens gets no reward.
    """
    assert clip_placement in ("score", "token"), clip_placement
    at_end = last_token_mask(mask) > 0
    column = _clip(scores, clip_range_score if clip_placement == "score" else None).unsqueeze(-1)
    scored = paddle.where(at_end, column.expand_as(kl), paddle.zeros_like(kl))
    rewards = kl_rewards(kl, mask=mask, kl_coeff=kl_coeff) + scored
    return zero_outside(_clip(rewards, clip_range_score if clip_placement == "token" else None), mask)


def _clip(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else paddle.clip(x, -limit, limit)
