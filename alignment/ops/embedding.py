"""Rows of a vocabulary's matrix by token id."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from alignment.ops.precision import is_half, scale_by, widen


def embedding(ids: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """Return the rows [M, H] of weight [V, H] at ids [M] int64.

    The gradient of half precision is summed in float32 and rounded once: added up in bfloat16, that of a token that
    comes 500 times would be off by 2 %.
    """
    if not is_half(weight) or weight.stop_gradient or not paddle.is_grad_enabled():
        return F.embedding(ids, weight)
    present, places = paddle.unique(ids, return_inverse=True)
    return F.embedding(places, widen(paddle.gather(weight, present))).astype(weight.dtype)


def scale_embedding(rows: paddle.Tensor, scale: float) -> paddle.Tensor:
    """Return ``rows`` times ``scale``, which is first rounded to their dtype, as in transformers."""
    rounded = scale if not is_half(rows) else float(paddle.full([], scale, rows.dtype).astype("float32"))
    return scale_by(rows, rounded)
