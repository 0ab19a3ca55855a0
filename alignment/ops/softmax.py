"""Softmax that propagates NaN.

For a row with NaN or infinity, Paddle's CPU kernels return finite weights, so that a ruined model looks like one that
finds all tokens about equally likely. GPU kernels return NaN.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F


def masked_softmax(scores: paddle.Tensor, mask: paddle.Tensor | None = None) -> paddle.Tensor:
    """Return softmax(scores + mask) over the last axis; rows with non-finite scores are NaN on any device.

    ``mask`` is broadcast and added to ``scores`` in place.
    """
    mark = not_finite_mark(scores)
    weights = F.softmax(scores if mask is None else scores.add_(mask))
    return weights if mark is None else weights.add_(mark)


def soft_cap(scores: paddle.Tensor, cap: float) -> paddle.Tensor:
    """Return cap tanh(scores / cap); with a ``cap`` of 0 the scores."""
    return paddle.tanh(scores * (1.0 / cap)) * cap if cap else scores


def not_finite_mark(rows: paddle.Tensor) -> paddle.Tensor | None:
    """Return [..., 1], 0 for ``rows`` [..., n] that are finite and NaN for others, not differentiable.

    Return None if the kernels propagate NaN themselves.
    """
    return rows.detach().sum(axis=-1, keepdim=True) * 0 if rows.place.is_cpu_place() else None
