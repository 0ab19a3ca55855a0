"""Operators that only a GPU has, for a CPU: signatures of Paddle's, refusals and rounding of a GPU's kernels.

Everything is computed in float32 and rounded once, so gradients come from the tape. ``stand_in`` names what of
``alignment.ops.device_kernels`` they replace.
"""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle.nn.functional import flash_attention

MASK_SIGNATURE = inspect.signature(flash_attention.flashmask_attention)
SIGNATURE = inspect.signature(flash_attention.flash_attn_unpadded)
HALF = (paddle.bfloat16, paddle.float16)


def flash_attn_unpadded(*arguments: Any, **named: Any) -> tuple[Any, None]:
    """As ``paddle.nn.functional.flash_attention.flash_attn_unpadded``: heads [M, heads, D], starts [n + 1] int32."""
    bound = SIGNATURE.bind(*arguments, **named)
    bound.apply_defaults()
    query, key, value, starts, key_starts, longest, key_longest, scale, *others = bound.arguments.values()
    assert others == [0.0, True, False, None, "", True, None], "dropout, causal, return_softmax and what follows"
    rows = []
    for first, last in _check_flash(query, key, value, (starts, key_starts), (longest, key_longest)):
        q, k, v = (x[first:last].astype("float32").transpose([1, 0, 2]) for x in (query, key, value))
        k, v = (x.repeat_interleave(query.shape[1] // key.shape[1], axis=0) for x in (k, v))
        scores = paddle.matmul(q, k, transpose_y=True) * scale
        seen = paddle.tril(paddle.ones(scores.shape[1:], "bool"))
        scores = paddle.where(seen, scores, paddle.full_like(scores, -1e30))
        rows.append(paddle.matmul(F.softmax(scores), v).transpose([1, 0, 2]))
    return paddle.concat(rows).astype(query.dtype), None


def flashmask_attention(*arguments: Any, **named: Any) -> Any:
    """As ``paddle.nn.functional.flashmask_attention``, causal: key j of [1, S, heads, D] is seen by the queries from j
    on, up to but without row j of [1, 1, S, 1] int32.
    """
    bound = MASK_SIGNATURE.bind(*arguments, **named)
    bound.apply_defaults()
    query, key, value, below, *others = bound.arguments.values()
    assert others == [0.0, True, None, False, False, None, "", True, None, None, None], "causal, without dropout"
    tokens, heads = query.shape[1], query.shape[2]
    assert query.dtype == key.dtype == value.dtype and query.dtype in HALF and key.shape == value.shape
    assert query.shape[0] == 1 and key.shape[:2] == [1, tokens] and heads % key.shape[2] == 0
    assert query.shape[3] == key.shape[3] <= 256 and query.shape[3] % 8 == 0
    assert below.dtype == paddle.int32 and below.shape == [1, 1, tokens, 1]
    q, k, v = (x[0].astype("float32").transpose([1, 0, 2]) for x in (query, key, value))
    k, v = (x.repeat_interleave(heads // key.shape[2], axis=0) for x in (k, v))
    row = paddle.arange(tokens, dtype="int32").unsqueeze(-1)
    seen = paddle.logical_and(row >= row.t(), row < below.reshape([1, tokens]))
    scores = paddle.matmul(q, k, transpose_y=True) * query.shape[3] ** -0.5
    scores = paddle.where(seen.unsqueeze(0).expand(scores.shape), scores, paddle.full_like(scores, -1e30))
    return paddle.matmul(F.softmax(scores), v).transpose([1, 0, 2]).unsqueeze(0).astype(query.dtype)


def _check_flash(query: Any, key: Any, value: Any, starts: tuple, longest: tuple) -> list[tuple[int, int]]:
    """Refuse what the kernel would read or write out of bounds; return the first token of each row and of the next."""
    assert query.dtype == key.dtype == value.dtype and query.dtype in HALF
    assert len(query.shape) == 3 and query.shape[2] % 8 == 0 and query.shape[2] <= 256
    assert key.shape == value.shape and key.shape[::2] == query.shape[::2] and query.shape[1] % key.shape[1] == 0
    assert [x.dtype for x in starts] == [paddle.int32] * 2
    (found, key_found), (most, key_most) = (x.tolist() for x in starts), longest
    assert found == key_found and found[0] == 0 and found[-1] == query.shape[0]
    rows = list(itertools.pairwise(found))
    assert type(most) is int and most == key_most == max(last - first for first, last in rows)
    return rows


def fused_rms_norm_ext(x: Any, scale: Any, epsilon: float) -> tuple[Any, Any]:
    """As ``paddle._C_ops.fused_rms_norm_ext``: (x [N, H] normalised, reciprocal root mean squares [N])."""
    assert x.dtype == scale.dtype and len(x.shape) == 2 and scale.shape == [x.shape[1]]
    wide = x.astype("float32")
    inverse = paddle.rsqrt((wide * wide).mean(-1, keepdim=True) + epsilon)
    return (wide * inverse * scale.astype("float32")).astype(x.dtype), inverse.flatten()


def fused_linear_param_grad_add(
    x: Any, dout: Any, dweight: Any, dbias: Any, multi_precision: bool, has_bias: bool
) -> tuple[Any, None]:
    """As ``paddle._C_ops.fused_linear_param_grad_add``: ``dweight`` [M, N] float32 (or zeros) plus x' dout."""
    assert x.dtype == dout.dtype and x.dtype in HALF and x.shape[0] == dout.shape[0] and len(x.shape) == 2
    assert multi_precision and not has_bias and dbias is None
    assert not (paddle.is_grad_enabled() and not (x.stop_gradient and dout.stop_gradient)), "it has no gradients"
    product = paddle.matmul(x.astype("float32"), dout.astype("float32"), transpose_x=True)
    if dweight is None:
        return product, None
    assert dweight.dtype == paddle.float32 and dweight.shape == product.shape
    return dweight.add_(product), None


class Operators:
    """In the place of ``paddle._C_ops`` in ``device_kernels``."""

    fused_rms_norm_ext = staticmethod(fused_rms_norm_ext)
    fused_linear_param_grad_add = staticmethod(fused_linear_param_grad_add)


def holds_half(*tensors: Any) -> bool:
    """Whether all ``tensors`` are half precision: those would be on the GPU."""
    return all(x.dtype in HALF for x in tensors)


def stand_in() -> dict[str, Any]:
    """Return by name what replaces it in ``device_kernels``: half precision is on a device with all kernels."""
    return {
        "on_device": holds_half,
        "has_kernel": lambda name, dtype: True,
        "_generation": lambda: 9,
        "flash_attn_unpadded": flash_attn_unpadded,
        "flashmask_attention": flashmask_attention,
        "_C_ops": Operators,
    }
