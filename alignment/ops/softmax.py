"""Softmax that tells of damage.

Paddle's CPU kernels answer a row that holds NaN or infinity with finite weights, so that a ruined model looks like one
that finds all tokens about equally likely. Kernels of a GPU answer with NaN.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F


def masked_softmax(scores: paddle.Tensor, mask: paddle.Tensor | None = None) -> paddle.Tensor:
    """Return softmax(scores + mask) over the last axis; a row with a score that is not finite is NaN on any device.

    ``mask`` has a shape that broadcasts to that of ``scores``, which it is added to in place.
    """
    mark = not_finite_mark(scores)
    weights = F.softmax(scores if mask is None else scores.add_(mask))
    return weights if mark is None else weights.add_(mark)


def not_finite_mark(rows: paddle.Tensor) -> paddle.Tensor | None:
    """Return [..., 1], 0 for the rows [..., n] whose numbers are all finite and NaN for the others, without gradients.

    None where the kernels keep NaN themselves.
    """
    return rows.detach().sum(axis=-1, keepdim=True) * 0 if rows.place.is_cpu_place() else None
