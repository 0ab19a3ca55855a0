"""Rows of a vocabulary's matrix by token id."""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from alignment.ops.native import update_ops
from alignment.ops.native.selection import runs_natively
from alignment.ops.precision import is_half, scale_by, widen


def embedding(ids: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """Return the rows [M, H] of weight [V, H] at ids [M] int64.

    The gradient of half precision is summed in float32 and rounded once: added up in bfloat16, that of a token that
    comes 500 times would be off by 2 %. Where the weight has a gradient already, compiled kernels add to its rows
    without touching the others.
    """
    if weight.stop_gradient or not paddle.is_grad_enabled():
        return F.embedding(ids, weight)
    if weight.grad is not None and runs_natively(weight, weight.grad) and weight.grad.is_contiguous():
        anchor = paddle.zeros([1], weight.dtype)
        anchor.stop_gradient = False
        return _AddedRows.apply(anchor, ids, _Held(weight))
    if not is_half(weight):
        return F.embedding(ids, weight)
    present, places = paddle.unique(ids, return_inverse=True)
    return F.embedding(places, widen(paddle.gather(weight, present))).astype(weight.dtype)


def scale_embedding(rows: paddle.Tensor, scale: float) -> paddle.Tensor:
    """Return ``rows`` times ``scale``, which is first rounded to their dtype, as in transformers."""
    rounded = scale if not is_half(rows) else float(paddle.full([], scale, rows.dtype).astype("float32"))
    return scale_by(rows, rounded)


@dataclass(frozen=True)
class _Held:
    """A weight that autograd is not to see; it would find one in a tuple."""

    weight: paddle.Tensor


class _AddedRows(PyLayer):
    """An embedding whose gradient is added to that of earlier micro-batches in place; ``anchor`` is why it has one."""

    @staticmethod
    def forward(ctx, anchor, ids, held):
        ctx.ids, ctx.held = ids, held
        return F.embedding(ids, held.weight)

    @staticmethod
    def backward(ctx, grad):
        weight = ctx.held.weight
        if weight.grad is None:  # cleared since the forward pass
            weight.grad = paddle.zeros_like(weight)
        update_ops.add_rows(weight.grad, ctx.ids.flatten(), grad.reshape([-1, grad.shape[-1]]))
        return paddle.zeros([1], grad.dtype)
