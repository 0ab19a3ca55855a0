"""The operators of Paddle that the suite calls, each with numpy's result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import paddle
import paddle.nn.functional as F

_DRAW = np.random.default_rng(0)
X = _DRAW.standard_normal((5, 67)).astype(np.float32)
"""[5, 67] float32: wider than any vector register, and not a multiple of its width."""
POSITIVE = np.abs(X) + np.float32(0.5)
IDS = np.array([4, 0, 3, 3, 1, 2, 0], np.int64)
COLUMNS = _DRAW.integers(0, 67, (5, 1))
_PROBS = np.exp(X) / np.exp(X).sum(-1, keepdims=True)
_SIGMOID = 1 / (1 + np.exp(-X))
_WITH_ROWS = X.copy()
_WITH_ROWS[[1, 3]] = POSITIVE[[1, 3]]


def _tensor(values: np.ndarray) -> paddle.Tensor:
    return paddle.to_tensor(values)


OPERATORS: dict[str, tuple[Callable[[paddle.Tensor], object], object]] = {
    "matmul": (lambda x: paddle.matmul(x, x, transpose_y=True), X @ X.T),
    "abs": (lambda x: paddle.abs(x), np.abs(X)),
    "add_n": (lambda x: paddle.add_n([x, x, x]), 3 * X),
    "arange": (lambda x: paddle.arange(7), np.arange(7)),
    "argmax": (lambda x: paddle.argmax(x, axis=-1), X.argmax(-1)),
    "assign": (lambda x: paddle.assign(x), X),
    "clip": (lambda x: paddle.clip(x, -0.5, 0.5), X.clip(-0.5, 0.5)),
    "concat": (lambda x: paddle.concat([x, x]), np.concatenate([X, X])),
    "cumsum": (lambda x: paddle.cumsum(x, axis=1), X.cumsum(1)),
    "divide": (lambda x: paddle.divide(x, _tensor(POSITIVE)), X / POSITIVE),
    "exp": (lambda x: paddle.exp(x), np.exp(X)),
    "eye": (lambda x: paddle.eye(5, 67), np.eye(5, 67)),
    "expm1": (lambda x: paddle.expm1(x), np.expm1(X)),
    "flip": (lambda x: paddle.flip(x, axis=[1]), X[:, ::-1]),
    "full": (lambda x: paddle.full([3, 17], 2.5), np.full((3, 17), 2.5)),
    "full_like": (lambda x: paddle.full_like(x, 2.0), np.full_like(X, 2)),
    "gather": (lambda x: paddle.gather(x, _tensor(IDS)), X[IDS % 5]),
    "gather_nd": (lambda x: paddle.gather_nd(x, _tensor(np.stack([IDS, IDS], 1))), X[IDS, IDS]),
    "index_put": (lambda x: paddle.index_put(x, (_tensor(IDS[:3]),), _tensor(X[IDS[:3]])), X),
    "index_select": (lambda x: paddle.index_select(x, _tensor(IDS % 5)), X[IDS % 5]),
    "index_put_": (lambda x: paddle.index_put_(x, (_tensor(IDS[:3]),), _tensor(X[IDS[:3]])), X),
    "log": (lambda x: paddle.log(_tensor(POSITIVE)), np.log(POSITIVE)),
    "log1p": (lambda x: paddle.log1p(_tensor(POSITIVE)), np.log1p(POSITIVE)),
    "logical_and": (lambda x: paddle.logical_and(x > 0, x < 1), (X > 0) & (X < 1)),
    "maximum": (lambda x: paddle.maximum(x, -x), np.abs(X)),
    "minimum": (lambda x: paddle.minimum(x, -x), -np.abs(X)),
    "ones": (lambda x: paddle.ones([3, 17]), np.ones((3, 17))),
    "ones_like": (lambda x: paddle.ones_like(x), np.ones_like(X)),
    "rsqrt": (lambda x: paddle.rsqrt(_tensor(POSITIVE)), 1 / np.sqrt(POSITIVE)),
    "split": (lambda x: paddle.concat(paddle.split(x, [2, 3])[::-1]), np.concatenate([X[2:], X[:2]])),
    "scatter": (
        lambda x: paddle.scatter(paddle.zeros([5, 67]), _tensor(IDS[:3]), x[:3]),
        np.stack([X[1], 0 * X[0], 0 * X[0], X[2], X[0]]),
    ),
    "scatter_": (lambda x: paddle.scatter_(x, _tensor(IDS[:2]), _tensor(X[IDS[:2]])), X),
    "scatter_nd": (
        lambda x: paddle.scatter_nd(_tensor(IDS[:4, None]), x[:4], [5, 67]),
        np.stack([X[1], 0 * X[0], 0 * X[0], X[2] + X[3], X[0]]),
    ),
    "sort": (lambda x: paddle.sort(x, axis=-1), np.sort(X, -1)),
    "sqrt": (lambda x: paddle.sqrt(_tensor(POSITIVE)), np.sqrt(POSITIVE)),
    "stack": (lambda x: paddle.stack([x, -x]), np.stack([X, -X])),
    "tanh": (lambda x: paddle.tanh(x), np.tanh(X)),
    "take_along_axis": (
        lambda x: paddle.take_along_axis(x, _tensor(COLUMNS), axis=1),
        np.take_along_axis(X, COLUMNS, 1),
    ),
    "tile": (lambda x: paddle.tile(x, [1, 2]), np.tile(X, (1, 2))),
    "topk": (lambda x: paddle.topk(x, 3)[0], -np.sort(-X, -1)[:, :3]),
    "to_tensor": (lambda x: _tensor(X), X),
    "unique": (lambda x: paddle.unique(_tensor(IDS)), np.unique(IDS)),
    "unsqueeze": (lambda x: paddle.unsqueeze(x, 1), X[:, None]),
    "unstack": (lambda x: paddle.unstack(x)[1], X[1]),
    "where": (lambda x: paddle.where(x > 0, x, -x), np.abs(X)),
    "zeros": (lambda x: paddle.zeros([3, 17]), np.zeros((3, 17))),
    "zeros_like": (lambda x: paddle.zeros_like(x), np.zeros_like(X)),
    "embedding": (lambda x: F.embedding(_tensor(IDS), x), X[IDS]),
    "softmax": (lambda x: F.softmax(x), _PROBS),
    "log_sigmoid": (lambda x: F.log_sigmoid(x), np.log(_SIGMOID)),
    "gelu": (lambda x: F.gelu(x), X * (1 + np.vectorize(math.erf)(X / math.sqrt(2))) / 2),
    "relu": (lambda x: F.relu(x), np.maximum(X, 0)),
    "sigmoid": (lambda x: F.sigmoid(x), _SIGMOID),
    "silu": (lambda x: F.silu(x), X * _SIGMOID),
    "swiglu": (lambda x: F.swiglu(x, -x), -X * X * _SIGMOID),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, _tensor(COLUMNS[:, 0]), reduction="none"),
        -np.log(np.take_along_axis(_PROBS, COLUMNS, 1)[:, 0]),
    ),
    "sum, mean, max, min": (
        lambda x: paddle.stack([x.sum(), x.mean(), x.max(), x.min()]),
        np.array([X.sum(dtype=np.float64), X.mean(dtype=np.float64), X.max(), X.min()]),
    ),
    "sums along an axis": (lambda x: x.sum(-1) + x.mean(-1), X.sum(-1) + X.mean(-1)),
    "std, var": (lambda x: paddle.stack([x.std(), x.var()]), np.array([X.std(ddof=1), X.var(ddof=1)])),
    "arithmetic": (lambda x: (x * x + x - 2.0) / _tensor(POSITIVE), (X * X + X - 2) / POSITIVE),
    "arithmetic in place": (
        lambda x: x.add_(x).subtract_(_tensor(POSITIVE)).multiply_(x).scale_(0.5),
        (2 * X - POSITIVE) ** 2 / 2,
    ),
    "square, abs": (lambda x: x.square() + x.abs(), X * X + np.abs(X)),
    "transpose, reshape": (lambda x: x.reshape([5, 1, 67]).transpose([2, 1, 0]).flatten(), X.T.ravel()),
    "repeat, expand": (lambda x: x[:1].expand_as(x), np.repeat(X[:1], 5, 0)),
    "slices": (lambda x: x[1:4, 3::2], X[1:4, 3::2]),
    "isfinite, any, all": (lambda x: (x.isfinite().all(), x.isnan().any()), (True, False)),
    "bfloat16 and back": (lambda x: paddle.round(x * 8).astype("bfloat16").astype("float32"), np.round(X * 8)),
    "float64 and back": (lambda x: x.astype("float64").astype("float32"), X),
    "cos, sin": (lambda x: x.cos() ** 2 + x.sin() ** 2, np.ones_like(X)),
}
"""Name to (call on a tensor of ``X``, expected result)."""


def attention_of_heads() -> None:
    """Check Paddle's causal attention, in which the first row attends only to itself; AssertionError if wrong."""
    q = _tensor(_DRAW.standard_normal((1, 9, 2, 16)).astype(np.float32))
    out = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    np.testing.assert_allclose(out[:, 0].numpy(), q[:, 0].numpy(), rtol=1e-5)


def gradients() -> None:
    """Check the backward pass of a product and a softmax; AssertionError if wrong."""
    x = _tensor(X)
    x.stop_gradient = False
    F.softmax(paddle.matmul(x, _tensor(np.eye(67, dtype=np.float32)))).square().sum().backward()
    inner = 2 * _PROBS * (_PROBS - (_PROBS * _PROBS).sum(-1, keepdims=True))
    np.testing.assert_allclose(x.grad.numpy(), inner, atol=1e-5)


def operator_trials() -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield (name, call) of every operator."""
    for name in OPERATORS:
        yield f"Paddle's {name}", partial(_compare, name)
    yield "Paddle's scaled_dot_product_attention", attention_of_heads
    yield "Paddle's backward pass", gradients


def _compare(name: str) -> None:
    call, wanted = OPERATORS[name]
    found = call(_tensor(X.copy()))
    several = isinstance(found, tuple)
    for one, other in zip(found if several else [found], wanted if several else [wanted], strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-4, atol=1e-5)
