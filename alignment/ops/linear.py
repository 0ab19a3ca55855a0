"""Matrix product with an optional bias."""

from __future__ import annotations

import paddle
from paddle.autograd import PyLayer

from alignment.ops.products import product


class _AddBias(PyLayer):
    """x + bias; Paddle's own gradient of a broadcast bias takes longer than the matrix product before it."""

    @staticmethod
    def forward(ctx, x, bias):
        ctx.is_frozen = bias.stop_gradient
        return x + bias

    @staticmethod
    def backward(ctx, grad):
        if ctx.is_frozen:
            return grad, None
        rows = grad.reshape([-1, grad.shape[-1]])
        return grad, paddle.matmul(paddle.ones([1, rows.shape[0]], rows.dtype), rows).flatten()


def linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
    """Return ``x @ weight + bias``; x [..., I], weight [I, O], bias [O] or None -> [..., O]."""
    y = product(x, weight)
    return y if bias is None else add_bias(y, bias)


def add_bias(x: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """Return ``x + bias``; x [..., O], bias [O]."""
    return _AddBias.apply(x, bias)
