"""Advantages from rewards and values, or from the scores of a group of answers.

Legend: N rows, R padded response; a mask is 1 on real tokens, which are contiguous in each row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.masked import masked_moments, zero_outside
from alignment.metrics import Metric

if TYPE_CHECKING:
    from paddle import Tensor

GroupScale = Literal["group", "batch", "none"]


def gae(
    rewards: Tensor, values: Tensor, *, mask: Tensor, gamma: float, gae_lambda: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return (advantages, returns), both [N, R] and zero under the mask (Schulman et al. 2016, equation 16).

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lambda A_{t+1}, with V = 0 after the last real token;
    the return is A_t + V_t. ``rewards`` and ``values`` are [N, R]; ``gae_lambda`` may be one for each row, [N, 1].
    """
    values = zero_outside(values, mask)
    next_values = paddle.concat([values[:, 1:], paddle.zeros_like(values[:, :1])], axis=1)
    deltas = zero_outside(rewards + gamma * next_values - values, mask)
    advantages = zero_outside(discounted_sums(deltas, gamma * gae_lambda), mask)
    return advantages, advantages + values


def reinforce_returns(rewards: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Return G_t = r_t + gamma G_{t+1} [N, R], zero under the mask."""
    return zero_outside(discounted_sums(zero_outside(rewards, mask), gamma), mask)


def discounted_sums(x: Tensor, discount: float | Tensor) -> Tensor:
    """Return y_t = x_t + discount * y_{t+1} along the last axis of ``x`` [N, R]; ``discount`` may be [N, 1].

    Doubling scan: after step k each entry holds 2^k discounted terms, so log2(R) whole-array steps replace a loop over
    tokens; pairwise addition also rounds less than a running sum in float32.
    """
    total, step, factor = x, 1, discount
    while step < x.shape[1]:
        shifted = paddle.concat([total[:, step:], paddle.zeros_like(total[:, :step])], axis=1)
        total = total + factor * shifted
        step, factor = 2 * step, factor * factor
    return total


class _Groups(NamedTuple):
    same: Tensor
    """[N, N], 1 where the second index is a row in the group of the first."""
    counts: Tensor
    """[N], the size of each row's group."""


def group_normalized(
    scores: Tensor,
    group_ids: Tensor,
    *,
    mask: Tensor | None = None,
    scale: GroupScale = "group",
    eps: float = 1e-6,
) -> Tensor:
    """Return (score - group mean) / (std + eps), [N] (GRPO: Shao et al. 2024, section 4.1.2).

    ``scale``: the sample (n - 1) std of the group, of the batch, or ``none`` for no division (Dr. GRPO).
    A group of one keeps its raw score over (1 + eps), as in PaddleNLP and verl. ``eps``: TRL 1e-4, OpenRLHF 1e-9.
    ``mask`` [N] is False on rows without a group, whose result is meaningless (None: all True). Computed in float64,
    because in float32 equal scores may differ from their mean by more than ``eps``.
    """
    assert scale in ("group", "batch", "none"), scale
    dtype, scores = scores.dtype, scores.astype("float64")
    groups = _groups(scores, group_ids, mask)
    centred = scores - paddle.where(groups.counts > 1, _group_mean(scores, groups), paddle.zeros_like(scores))
    if scale == "none":
        return centred.astype(dtype)
    if scale == "batch":
        everyone = paddle.ones_like(scores) if mask is None else mask.astype(scores.dtype)
        _, variance = masked_moments(scores, everyone, unbiased=True)
        return (centred / (paddle.sqrt(variance) + eps)).astype(dtype)
    spread = paddle.sqrt(groups.same @ centred**2 / paddle.clip(groups.counts - 1, min=1.0))
    return (centred / (paddle.where(groups.counts > 1, spread, paddle.ones_like(spread)) + eps)).astype(dtype)


def leave_one_out(scores: Tensor, group_ids: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return score minus the mean of the others in its group, [N] (RLOO: Ahmadian et al. 2024, equation 5).

    A group of one keeps its raw score. ``mask`` [N] as in ``group_normalized``.
    """
    dtype, scores = scores.dtype, scores.astype("float64")
    groups = _groups(scores, group_ids, mask)
    others = paddle.clip(groups.counts - 1, min=1.0)
    compared = (scores - _group_mean(scores, groups)) * groups.counts / others
    return paddle.where(groups.counts > 1, compared, scores).astype(dtype)


def minus_weighted_mean(scores: Tensor, weights: Tensor, group_ids: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return score minus the mean of its group weighted by ``weights``, all [N]; ``mask`` as in ``group_normalized``.

    With the lengths of responses as weights this is the optimal baseline of OPO (Hao et al. 2025, equation 7).
    """
    dtype, scores, weights = scores.dtype, scores.astype("float64"), weights.astype("float64")
    same = _groups(scores, group_ids, mask).same
    totals = same @ weights
    baseline = same @ (scores * weights) / paddle.where(totals > 0, totals, paddle.ones_like(totals))
    return (scores - baseline).astype(dtype)


def has_peers(group_ids: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return [N] bool, True if the group has another row; ``mask`` [N] as in ``group_normalized``."""
    return _groups(group_ids.astype("float64"), group_ids, mask).counts > 1


def degenerate_groups(scores: Tensor, group_ids: Tensor, *, mask: Tensor | None = None) -> dict[str, Metric]:
    """Return ``reward/degenerate_groups``, the number of groups with equal ``scores`` [N], which give no signal, and
    ``reward/degenerate_share``, their share of all groups. ``mask`` as in ``group_normalized``.
    """
    wide = scores.astype("float64")
    groups = _groups(wide, group_ids, mask)
    differs = groups.same @ (wide != _group_mean(wide, groups)).astype(wide.dtype) > 0
    members = paddle.ones_like(wide) if mask is None else mask.astype(wide.dtype)
    weights = members / paddle.clip(groups.counts, min=1.0)
    number = (weights * (1.0 - differs.astype(wide.dtype))).sum()
    share = number / paddle.clip(weights.sum(), min=1.0)
    return {"reward/degenerate_groups": Metric(float(number)), "reward/degenerate_share": Metric(float(share))}


def _groups(scores: Tensor, group_ids: Tensor, mask: Tensor | None) -> _Groups:
    same = (group_ids.unsqueeze(0) == group_ids.unsqueeze(1)).astype(scores.dtype)
    if mask is not None:
        same = same * mask.astype(scores.dtype)
    return _Groups(same, same.sum(axis=-1))


def _group_mean(scores: Tensor, groups: _Groups) -> Tensor:
    return groups.same @ scores / paddle.clip(groups.counts, min=1.0)
