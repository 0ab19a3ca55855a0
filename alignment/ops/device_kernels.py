"""Operators that Paddle has only on a GPU, one function each; other modules call them only through these.

CPU tests replace them by operators with the same signatures (``tests/bf16/cpu_site/gpu_on_cpu.py``).
"""

from __future__ import annotations

from functools import cache

import paddle
from paddle import _C_ops
from paddle.base import core
from paddle.nn.functional.flash_attention import flash_attn_unpadded, flashmask_attention

from alignment.ops.precision import is_half

_NORM_KERNELS = "fused_rms_norm_ext", "fused_rms_norm_ext_grad"
_FLASH_KERNELS = {
    False: ("flash_attn_unpadded", "flash_attn_unpadded_grad"),
    True: ("flashmask_attention", "flashmask_attention_grad"),
}
"""Kernels by whether queries see a window only."""
_WIDEST_HEAD = 256


def on_device(*tensors: paddle.Tensor) -> bool:
    """Return whether all ``tensors`` are on a GPU."""
    return all(x.place.is_gpu_place() for x in tensors)


def has_kernel(name: str, dtype: paddle.dtype) -> bool:
    """Return whether this Paddle has a GPU kernel of the operator ``name`` for ``dtype``."""
    wanted = str(dtype).removeprefix("paddle.")
    return any(key.startswith("(GPU") and key.endswith(f" {wanted})") for key in _kernels().get(name, ()))


@cache
def _kernels() -> dict[str, list[str]]:
    """Return keys such as ``(GPU, Undefined(AnyLayout), bfloat16)`` by operator."""
    return core._get_registered_phi_kernels("function")


@cache
def _generation() -> int:
    """Return the major version of the GPU's compute capability."""
    return paddle.device.cuda.get_device_capability()[0]


def has_flash_attention(q: paddle.Tensor, head_dim: int, *, has_window: bool) -> bool:
    """Return whether flash attention, perhaps with a window, supports queries ``q`` with heads of size ``head_dim``."""
    fits = is_half(q) and on_device(q) and head_dim <= _WIDEST_HEAD and head_dim % 8 == 0
    return fits and _generation() >= 8 and all(has_kernel(name, q.dtype) for name in _FLASH_KERNELS[has_window])


def flash_attention(
    q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, starts: paddle.Tensor, longest: int
) -> paddle.Tensor:
    """Return the causal attention [M, heads, D] of sequences packed without padding.

    q [M, heads, D], k and v [M, kv_heads, D] in half precision; ``starts`` [n + 1] int32 holds the first token of each
    sequence, then M; no sequence is longer than ``longest``.
    """
    return flash_attn_unpadded(q, k, v, starts, starts, longest, longest, q.shape[2] ** -0.5, causal=True)[0]


def window_attention(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, unseen_from: paddle.Tensor) -> paddle.Tensor:
    """Return ``flash_attention`` where token i of ``unseen_from`` [M] int32 is seen by itself and those after it, up to
    but without token ``unseen_from[i]``.
    """
    rows = [x.unsqueeze(0) for x in (q, k, v)]
    return flashmask_attention(*rows, unseen_from.reshape([1, 1, -1, 1]), causal=True).squeeze(0)


def has_rms_norm(x: paddle.Tensor, weight: paddle.Tensor) -> bool:
    """Return whether this module's ``rms_norm`` supports ``x`` and ``weight``."""
    return on_device(x, weight) and x.dtype == weight.dtype and all(has_kernel(n, x.dtype) for n in _NORM_KERNELS)


def rms_norm(x: paddle.Tensor, weight: paddle.Tensor, eps: float) -> paddle.Tensor:
    """Return ``ops.rms_norm`` of x [N, H] by one kernel that computes in float32; differentiable."""
    return _C_ops.fused_rms_norm_ext(x, weight, eps)[0]


def has_wide_product(x: paddle.Tensor) -> bool:
    """Return whether ``add_wide_product`` supports matrices like ``x``."""
    return is_half(x) and on_device(x) and has_kernel("fused_linear_param_grad_add", x.dtype)


def add_wide_product(total: paddle.Tensor | None, a: paddle.Tensor, b: paddle.Tensor) -> paddle.Tensor:
    """Return ``total`` [M, N] float32 (None: zeros) plus the unrounded a' b of half-precision matrices.

    a [K, M], b [K, N]. ``total`` is overwritten. Not differentiable.
    """
    return _C_ops.fused_linear_param_grad_add(a, b, total, None, True, False)[0]
