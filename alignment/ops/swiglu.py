"""The gated activation of the feed-forward block (Shazeer 2020, equation 6)."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

from alignment.ops import device_kernels
from alignment.ops.native import training_ops
from alignment.ops.native.selection import runs_natively


def swiglu(gate: paddle.Tensor, up: paddle.Tensor) -> paddle.Tensor:
    """Return ``silu(gate) * up`` elementwise; on a GPU by one kernel, which rounds half precision only once."""
    if runs_natively(gate):
        return _NativeSwiglu.apply(gate, up)
    return F.swiglu(gate, up) if device_kernels.on_device(gate) else _Swiglu.apply(gate, up)


class _Swiglu(PyLayer):
    """s = sigmoid(gate), a = gate s, y = a up; d up = g a; d gate = g up (s + a - a s)."""

    @staticmethod
    def forward(ctx, gate, up):
        sigmoid = F.sigmoid(gate)
        ctx.save_for_backward(gate, up, sigmoid)
        return (gate * sigmoid).multiply_(up)

    @staticmethod
    def backward(ctx, grad):
        gate, up, sigmoid = ctx.saved_tensor()
        silu = gate * sigmoid
        slope = (silu * sigmoid).scale_(-1.0).add_(silu).add_(sigmoid)
        return slope.multiply_(up).multiply_(grad), silu.multiply_(grad)


class _NativeSwiglu(PyLayer):
    """``_Swiglu`` by compiled kernels, which recompute the sigmoid instead of keeping it."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return training_ops.swiglu(gate, up)

    @staticmethod
    def backward(ctx, grad):
        return training_ops.swiglu_grad(grad, *ctx.saved_tensor())
