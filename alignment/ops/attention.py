"""Causal attention over right-padded rows (Vaswani et al. 2017, equation 1), with shared key and value heads."""

from __future__ import annotations

import paddle
from paddle.autograd import PyLayer

from alignment.ops import device_kernels
from alignment.ops.head_layout import HeadLayout
from alignment.ops.native import training_ops
from alignment.ops.native.selection import runs_natively
from alignment.ops.native.training_ops import RaggedHeads
from alignment.ops.pieces import heads_at_once, keys_at_once
from alignment.ops.precision import is_half, scale_by, widen
from alignment.ops.softmax import masked_softmax, soft_cap


def causal_attention(
    q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, layout: HeadLayout, *, keep_weights: bool = True
) -> paddle.Tensor:
    """Return softmax(q k' / sqrt(D)) v under the causal mask of ``layout``, with its soft-cap of the scores.

    q [M, heads*D], k and v [M, kv_heads*D] -> [M, heads*D], M real tokens. Half precision on a GPU uses flash
    attention. Without ``keep_weights`` the backward pass recomputes the attention weights, as compiled kernels always
    do.
    """
    if runs_natively(q, k, v):
        return ragged_attention(q, k, v, layout.ragged)
    has_window = layout.window is not None
    if not layout.cap and device_kernels.has_flash_attention(q, layout.head_dim(q), has_window=has_window):
        return _flash_attention(q, k, v, layout)
    return _CausalAttention.apply(widen(q), widen(k), widen(v), layout, keep_weights).astype(q.dtype)


def ragged_attention(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, heads: RaggedHeads) -> paddle.Tensor:
    """Compute ``causal_attention`` by compiled kernels, which also rotate q and k if ``heads`` has a rotation."""
    return _NativeAttention.apply(q, k, v, heads)


def _flash_attention(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, layout: HeadLayout) -> paddle.Tensor:
    heads, kv_heads = [-1, layout.num_heads, layout.head_dim(q)], [-1, layout.num_kv_heads, layout.head_dim(q)]
    rows = q.reshape(heads), k.reshape(kv_heads), v.reshape(kv_heads)
    if layout.window is None:
        out = device_kernels.flash_attention(*rows, layout.starts, layout.length)
    else:
        out = device_kernels.window_attention(*rows, layout.unseen_from)
    return out.reshape(q.shape)


def decode_attention(
    q: paddle.Tensor,
    keys: paddle.Tensor,
    values: paddle.Tensor,
    mask: paddle.Tensor,
    scale: float,
    *,
    cap: float = 0.0,
) -> paddle.Tensor:
    """Return softmax(q keys' scale + mask) values, [N, group, D], for the newest token of every row.

    The scores have the soft-cap ``cap`` (0: none).
    q [N, group, D]; keys and values [N, C, D], N key heads of all rows; mask [N, group, C] as ``HeadLayout.mask``. Half
    precision is widened a piece at a time, and only the outcome is rounded.
    """
    if not is_half(q):
        scores = paddle.matmul(scale_by(q, scale), keys, transpose_y=True)
        return paddle.matmul(masked_softmax(soft_cap(scores, cap), mask), values)
    step = keys_at_once(4 * keys.shape[1] * keys.shape[2])
    outputs = []
    for piece in (slice(i, i + step) for i in range(0, q.shape[0], step)):
        scores = paddle.matmul(widen(q[piece]).scale_(scale), widen(keys[piece]), transpose_y=True)
        mixed = paddle.matmul(masked_softmax(soft_cap(scores, cap), mask[piece]), widen(values[piece]))
        outputs.append(mixed.astype(values.dtype))
    return _join(outputs)


def _probabilities(q: paddle.Tensor, k: paddle.Tensor, layout: HeadLayout) -> paddle.Tensor:
    """Return the weights [c, group*S, S] of scaled queries q [c, group*S, D] on keys k [c, S, D]."""
    length = layout.length
    scores = soft_cap(paddle.matmul(q, k, transpose_y=True), layout.cap).reshape([-1, length, length])
    return masked_softmax(scores, layout.mask.reshape([length, length])).reshape([*q.shape[:2], length])


def _cap_slope(q: paddle.Tensor, k: paddle.Tensor, cap: float) -> paddle.Tensor:
    """Return the derivative [c, group*S, S] of ``soft_cap``, for the scores computed again."""
    share = paddle.tanh(paddle.matmul(q, k, transpose_y=True) * (1.0 / cap))
    return 1.0 - share * share


def _pieces(q: paddle.Tensor, layout: HeadLayout) -> list[slice]:
    """Return slices of the leading axis of q [c, group*S, D] with at most ``SCORE_BYTES`` of scores each."""
    step = heads_at_once(q.shape[1] * layout.length * q.element_size())
    return [slice(i, min(i + step, q.shape[0])) for i in range(0, q.shape[0], step)]


class _CausalAttention(PyLayer):
    """p = softmax(q k'), o = p v; dv = p' g; ds = p (g v' - rowsum(g o)); dq = ds k; dk = ds' q."""

    @staticmethod
    def forward(ctx, q, k, v, layout, keep_weights):
        dim = q.shape[1] // layout.queries.count
        grouped = [-1, layout.group * layout.length, dim]
        qh = layout.queries.spread(q).scale_(dim**-0.5).reshape(grouped)
        kh, vh = (layout.keys.spread(x).reshape([-1, layout.length, dim]) for x in (k, v))
        pieces = _pieces(qh, layout)
        outputs, ctx.kept = [], []
        for piece in pieces:
            weights = _probabilities(qh[piece], kh[piece], layout)
            outputs.append(paddle.matmul(weights, vh[piece]))
            ctx.kept.append(weights if keep_weights and len(pieces) == 1 else None)
        out = _join(outputs)
        ctx.layout = layout
        ctx.save_for_backward(qh, kh, vh, out)
        return layout.queries.collect(out.reshape([-1, dim]))

    @staticmethod
    def backward(ctx, grad):
        layout, (qh, kh, vh, out) = ctx.layout, ctx.saved_tensor()
        dim = qh.shape[2]
        gh = layout.queries.spread(grad).reshape(qh.shape)
        along = paddle.matmul(gh * out, paddle.ones([dim, 1], gh.dtype))
        query_grads, key_grads, value_grads = [], [], []
        for piece, kept in zip(_pieces(qh, layout), ctx.kept, strict=True):
            weights = _probabilities(qh[piece], kh[piece], layout) if kept is None else kept
            value_grads.append(paddle.matmul(weights, gh[piece], transpose_x=True))
            slope = paddle.matmul(gh[piece], vh[piece], transpose_y=True).subtract_(along[piece]).multiply_(weights)
            if layout.cap:
                slope = slope.multiply_(_cap_slope(qh[piece], kh[piece], layout.cap))
            query_grads.append(paddle.matmul(slope, kh[piece]))
            key_grads.append(paddle.matmul(slope, qh[piece], transpose_x=True))
        return (
            layout.queries.collect(_join(query_grads).scale_(dim**-0.5).reshape([-1, dim])),
            layout.keys.collect(_join(key_grads).reshape([-1, dim])),
            layout.keys.collect(_join(value_grads).reshape([-1, dim])),
        )


def _join(parts: list[paddle.Tensor]) -> paddle.Tensor:
    return parts[0] if len(parts) == 1 else paddle.concat(parts)


class _NativeAttention(PyLayer):
    """``_CausalAttention`` by compiled kernels, which hold the scores of only a few queries at a time."""

    @staticmethod
    def forward(ctx, q, k, v, heads):
        ctx.heads = heads
        out, statistics = training_ops.attention(q, k, v, heads)
        ctx.save_for_backward(q, k, v, out.detach(), statistics)  # a kept output would keep itself alive
        return out

    @staticmethod
    def backward(ctx, grad):
        saved = ctx.saved_tensor()
        return training_ops.attention_grad(grad, saved[:3], saved[3:], ctx.heads)
