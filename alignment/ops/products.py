"""Products of linear layers and of the vocabulary head, in the precision that ``float32_matmul_precision`` names."""

from __future__ import annotations

import paddle
from paddle.autograd import PyLayer

from alignment.ops import onednn

_rounds = False


def round_operands(enabled: bool) -> None:
    """Set whether float32 products on the CPU of this process round their operands to bfloat16, with sums in float32;
    the default is not to. ``onednn.find_obstacle`` says whether the processor can.
    """
    global _rounds
    _rounds = enabled


class _Rounded(PyLayer):
    """x @ weight with operands rounded to bfloat16, in the gradients as well."""

    @staticmethod
    def forward(ctx, x, weight, transpose_weight):
        ctx.needs = (not x.stop_gradient, not weight.stop_gradient)
        rows = _rounded(x.reshape([-1, x.shape[-1]]))
        ctx.save_for_backward(rows, weight)
        ctx.shape, ctx.transposed = x.shape, transpose_weight
        y = onednn.matmul(rows, _rounded(weight), transpose_y=transpose_weight)
        return y.reshape([*x.shape[:-1], y.shape[-1]])

    @staticmethod
    def backward(ctx, grad):
        rows, weight = ctx.saved_tensor()
        grad, of_x, of_weight = _rounded(grad.reshape([-1, grad.shape[-1]])), None, None
        if ctx.needs[0]:
            of_x = onednn.matmul(grad, _rounded(weight), transpose_y=not ctx.transposed).reshape(ctx.shape)
        if ctx.needs[1]:
            of_weight = onednn.matmul(*((grad, rows) if ctx.transposed else (rows, grad)), transpose_x=True)
        return of_x, of_weight


def _rounded(x: paddle.Tensor) -> paddle.Tensor:
    return x.astype(paddle.bfloat16)


def product(x: paddle.Tensor, weight: paddle.Tensor, *, transpose_weight: bool = False) -> paddle.Tensor:
    """Return ``x @ weight``, x [..., I], weight [I, O] or, if so told, [O, I] -> [..., O]; differentiable."""
    if _is_rounded(x, weight):
        return _Rounded.apply(x, weight, transpose_weight)
    return paddle.matmul(x, weight, transpose_y=transpose_weight)


def weight_grad(rows: paddle.Tensor, grad: paddle.Tensor) -> paddle.Tensor:
    """Return rows^T @ grad [I, O], rows [T, I], grad [T, O]; not differentiable where operands are rounded."""
    if _is_rounded(rows, grad):
        return onednn.matmul(_rounded(rows), _rounded(grad), transpose_x=True)
    return paddle.matmul(rows, grad, transpose_x=True)


def _is_rounded(*operands: paddle.Tensor) -> bool:
    return _rounds and all(x.dtype == paddle.float32 and x.place.is_cpu_place() for x in operands)
