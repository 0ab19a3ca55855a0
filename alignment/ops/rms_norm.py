"""Root mean square normalisation (Zhang and Sennrich 2019, equation 4)."""

from __future__ import annotations

import paddle
from paddle.autograd import PyLayer

from alignment.ops import device_kernels
from alignment.ops.native import training_ops
from alignment.ops.native.selection import runs_natively
from alignment.ops.precision import widen

_FEW_NUMBERS = 1 << 14
"""Up to this size the overhead of Paddle's calls exceeds that of its slow reductions and broadcasts."""


NORM_OFFSETS = {"rms": 0.0, "rms+1": 1.0, "layer": 0.0}
"""What is added to the weight, by the name in a family's table."""


def offset_weight(weight: paddle.Tensor, offset: float) -> paddle.Tensor:
    """Return ``weight`` [H] plus ``offset``, in at least float32 if that is not 0."""
    return weight if offset == 0.0 else widen(weight) + offset


def rms_norm(x: paddle.Tensor, weight: paddle.Tensor, eps: float) -> paddle.Tensor:
    """Return ``x / sqrt(mean(x^2) + eps) * weight`` over the last axis; x [..., H], weight [H].

    Half precision is computed in float32 and returned in its own dtype.
    """
    if x.ndim != 2:
        return rms_norm(x.reshape([-1, x.shape[-1]]), weight, eps).reshape(x.shape)
    if runs_natively(x, weight):
        return _NativeRmsNorm.apply(x, weight, eps)
    if device_kernels.has_rms_norm(x, weight):
        return device_kernels.rms_norm(x, weight, eps)
    rows, weight = widen(x), widen(weight)
    operator = _NativeRmsNorm if runs_natively(rows, weight) else _RmsNorm
    return operator.apply(rows, weight, eps).astype(x.dtype)


def mean_square(x: paddle.Tensor) -> paddle.Tensor:
    """Return ``mean(x^2)`` [N, 1] of x [N, H], in at least float32."""
    wide = widen(x)
    return (wide * wide).mean(axis=-1, keepdim=True)


def scale_to(x: paddle.Tensor, mean: paddle.Tensor, weight: paddle.Tensor, eps: float) -> paddle.Tensor:
    """Return ``x / sqrt(mean + eps) * weight`` for x [N, H] and a ``mean`` [N, 1] of squares, of more than x maybe."""
    return (widen(x) * paddle.rsqrt(mean + eps) * widen(weight)).astype(x.dtype)


def normalise_rows(rows: paddle.Tensor, weight: paddle.Tensor, eps: float) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return (normalised rows [N, H], reciprocal root mean squares [N, 1]); not differentiable.

    Sums and broadcasts are matrix products, because Paddle's reductions and broadcasts on a CPU take 4 to 10 times
    longer.
    """
    width = rows.shape[1]
    mean = paddle.matmul(rows * rows, paddle.full([width, 1], 1.0 / width, rows.dtype))
    scale = paddle.rsqrt(mean.add_(paddle.full([1], eps, rows.dtype)))
    return paddle.matmul(scale, weight.reshape([1, width])).multiply_(rows), scale


class _RmsNorm(PyLayer):
    """y = x r w with r = rsqrt(mean(x^2) + eps); dx = g r w - x r^3 sum(g x w) / H; dw = sum over rows of g x r."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        y, scale = normalise_rows(x, weight, eps)
        ctx.is_frozen = weight.stop_gradient
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensor()
        width = x.shape[1]
        product = grad * x
        dot = paddle.matmul(product, weight.reshape([width, 1]))
        weight_grad = None if ctx.is_frozen else paddle.matmul(scale, product, transpose_x=True).flatten()
        shrink = paddle.matmul(scale * scale * scale * dot, paddle.full([1, width], 1.0 / width, x.dtype))
        direct = paddle.matmul(scale, weight.reshape([1, width])).multiply_(grad)
        return direct.subtract_(shrink.multiply_(x)), weight_grad


class _NativeRmsNorm(PyLayer):
    """``_RmsNorm`` by compiled kernels."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        y, scales = training_ops.rms_norm(x, weight, eps)
        ctx.is_frozen = weight.stop_gradient
        ctx.save_for_backward(x, weight, scales)
        return y

    @staticmethod
    def backward(ctx, grad):
        x_grad, weight_grad = training_ops.rms_norm_grad(grad, *ctx.saved_tensor())
        return x_grad, None if ctx.is_frozen else weight_grad


def rms_norm_inference(x: paddle.Tensor, weight: paddle.Tensor, eps: float) -> paddle.Tensor:
    """Return ``rms_norm`` of x [N, H], not differentiable.

    Paddle's fused CPU kernel is not used: it executes AVX-512 instructions without checking for them.
    """
    if device_kernels.has_rms_norm(x, weight):
        return device_kernels.rms_norm(x, weight, eps)
    rows, weight = widen(x), widen(weight)
    if runs_natively(rows, weight):
        return training_ops.rms_norm(rows, weight, eps)[0].astype(x.dtype)
    if rows.size > _FEW_NUMBERS:
        return normalise_rows(rows, weight, eps)[0].astype(x.dtype)
    # Fewer calls take half the time when overhead dominates.
    scale = paddle.rsqrt((rows * rows).mean(-1, keepdim=True) + eps)
    return (rows * scale).multiply_(weight).astype(x.dtype)


def layer_norm(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, eps: float) -> paddle.Tensor:
    """Return ``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last axis (Ba et al. 2016).

    It is ``rms_norm`` of what is left without the mean; half precision is computed in float32.
    """
    wide = widen(x)
    return (rms_norm(wide - wide.mean(-1, keepdim=True), widen(weight), eps) + widen(bias)).astype(x.dtype)


def layer_norm_inference(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, eps: float) -> paddle.Tensor:
    """Return ``layer_norm`` of x [N, H], not differentiable."""
    wide = widen(x)
    normed = rms_norm_inference(wide - wide.mean(-1, keepdim=True), widen(weight), eps)
    return normed.add_(widen(bias)).astype(x.dtype)
