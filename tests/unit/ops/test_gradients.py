"""Each operator against the plain formula, values and gradients, in float64."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from alignment.ops import pieces
from alignment.ops.attention import causal_attention
from alignment.ops.head_layout import HeadLayout
from alignment.ops.linear import linear
from alignment.ops.rms_norm import rms_norm
from alignment.ops.rotary import PositionTables, apply_rotary, rotation_tables
from alignment.ops.swiglu import swiglu
from alignment.ops.token_logprobs import head_logprobs, token_entropy


def draw(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return paddle.to_tensor(values, stop_gradient=False)


def assert_same(fast, slow, inputs):
    """Compare outputs, then the gradients of a weighted sum of them."""
    for seed, (a, b) in enumerate(zip(fast, slow, strict=True)):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-10)
        weights = draw(*a.shape, seed=100 + seed).detach()
        ours = paddle.grad((a * weights).sum(), inputs, retain_graph=True)
        plain = paddle.grad((b * weights).sum(), inputs, retain_graph=True)
        for x, y in zip(ours, plain, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-8, atol=1e-10)


def test_linear_with_bias():
    x, w, b = draw(2, 3, 5), draw(5, 4), draw(4)
    assert_same([linear(x, w, b)], [paddle.matmul(x, w) + b], [x, w, b])


@pytest.mark.parametrize("shape", [(6, 8), (2, 3, 8), (2, 3, 2, 8)])
def test_rms_norm(shape):
    x, w = draw(*shape), draw(8, seed=1)
    plain = x * paddle.rsqrt((x * x).mean(-1, keepdim=True) + 1e-3) * w
    assert_same([rms_norm(x, w, 1e-3)], [plain], [x, w])


def test_rms_norm_keeps_half_precision_type():
    x = paddle.ones([2, 8], "bfloat16") * 3
    y = rms_norm(x, paddle.ones([8], "bfloat16"), 1e-6)
    assert y.dtype == paddle.bfloat16
    np.testing.assert_allclose(y.astype("float32").numpy(), 1.0, rtol=1e-2)


def test_swiglu():
    gate, up = draw(5, 7) * 4, draw(5, 7, seed=1)
    assert_same([swiglu(gate, up)], [F.silu(gate) * up], [gate, up])


def test_rotary_rotates_pairs_of_half_heads():
    positions, frequencies = np.array([0, 3, 11]), np.array([1.0, 0.25])
    x = draw(3, 8)
    rotation = PositionTables(frequencies, 1.0)
    tables = rotation.at(paddle.to_tensor(positions), heads=2, longest=12, dtype="float64")
    angles = paddle.to_tensor(np.concatenate([positions[:, None] * frequencies] * 2, 1)).unsqueeze(1)
    heads = x.reshape([3, 2, 4])
    first, second = heads.split(2, axis=-1)
    plain = heads * paddle.cos(angles) + paddle.concat([-second, first], -1) * paddle.sin(angles)
    out = apply_rotary(x, tables)
    np.testing.assert_allclose(out.numpy(), plain.reshape([3, 8]).numpy(), atol=1e-6)
    np.testing.assert_array_equal(out[0].numpy(), x[0].numpy())
    weights = draw(3, 8, seed=5).detach()
    ours, theirs = (paddle.grad((y * weights).sum(), x)[0].numpy() for y in (out, plain.reshape([3, 8])))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_rotary_tables_are_those_of_their_positions_whatever_was_asked_before():
    frequencies = 10_000.0 ** -(np.arange(32) / 32)
    rotation, fresh = PositionTables(frequencies, 1.5), PositionTables(frequencies, 1.5)
    positions = np.array([0, 700, 3, 3, 4095])
    rotation.at(paddle.to_tensor([5]), heads=1, longest=6, dtype="float32")
    cos, sin = rotation_tables(positions, frequencies, scale=1.5)
    for tables in (rotation, fresh):
        found = tables.at(paddle.to_tensor(positions), heads=3, longest=4096, dtype="float32")
        np.testing.assert_array_equal(found.cos.numpy(), np.tile(cos, (1, 6)))
        np.testing.assert_array_equal(found.sin.numpy(), np.tile(np.concatenate([-sin, sin], 1), (1, 3)))
        np.testing.assert_array_equal(found.swap.numpy(), np.arange(30) ^ 1)
    scaled = rotation.at(paddle.to_tensor(positions), heads=1, longest=4096, dtype="float32", factor=0.125)
    np.testing.assert_array_equal(scaled.cos.numpy(), np.tile(cos * np.float32(0.125), (1, 2)))


def plain_attention(q, k, v, *, lengths, group, window):
    """Attention by loops over sequences and heads of width 4."""
    rows, start = [], 0
    for length in lengths:
        part = slice(start, start + int(length))
        distance = np.arange(length)[:, None] - np.arange(length)[None]
        mask = paddle.to_tensor(np.where((distance >= 0) & (distance < (window or length)), 0.0, -1e30))
        heads = []
        for head in range(q.shape[1] // 4):
            qs, ks = slice(4 * head, 4 * head + 4), slice(4 * (head // group), 4 * (head // group) + 4)
            scores = paddle.matmul(q[part, qs], k[part, ks], transpose_y=True) / 2.0 + mask
            heads.append(paddle.matmul(F.softmax(scores), v[part, ks]))
        rows.append(paddle.concat(heads, axis=-1))
        start += int(length)
    return paddle.concat(rows)


@pytest.mark.parametrize("lengths", [[5, 5, 5], [2, 5, 1]])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("score_bytes", [64 << 20, 1000])
def test_causal_attention(monkeypatch, lengths, kv_heads, window, score_bytes):
    monkeypatch.setattr(pieces, "SCORE_BYTES", score_bytes)
    layout = HeadLayout.build(np.array(lengths), num_heads=4, num_kv_heads=kv_heads, dtype="float64", window=window)
    tokens = sum(lengths)
    q, k, v = draw(tokens, 16), draw(tokens, kv_heads * 4, seed=1), draw(tokens, kv_heads * 4, seed=2)
    plain = plain_attention(q, k, v, lengths=lengths, group=4 // kv_heads, window=window)
    assert_same([causal_attention(q, k, v, layout)], [plain], [q, k, v])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("logit_bytes", [64 << 20, 4 * 11 * 3])
def test_head_logprobs_and_entropy(monkeypatch, transposed, logit_bytes):
    monkeypatch.setattr(pieces, "LOGIT_BYTES", logit_bytes)
    hidden, weight = draw(7, 6), draw(*((11, 6) if transposed else (6, 11)), seed=1)
    targets = paddle.to_tensor([0, 10, 3, 3, 7, 1, 5])
    ours = head_logprobs(hidden, weight, targets, transposed=transposed, temperature=0.7, with_entropy=True)
    logp = F.log_softmax(paddle.matmul(hidden, weight, transpose_y=transposed) / 0.7)
    plain = (logp * F.one_hot(targets, 11)).sum(-1), -(logp.exp() * logp).sum(-1)
    assert_same(ours, plain, [hidden, weight])


def test_head_without_entropy_returns_none(monkeypatch):
    hidden, weight, targets = draw(4, 6), draw(6, 11, seed=1), paddle.to_tensor([1, 2, 3, 4])
    whole = head_logprobs(hidden, weight, targets)
    monkeypatch.setattr(pieces, "LOGIT_BYTES", 4 * 11 * 2)
    cut = head_logprobs(hidden, weight, targets)
    assert whole[1] is None and cut[1] is None
    assert_same([cut[0]], [whole[0]], [hidden, weight])


def test_entropy_of_extreme_logits_is_finite():
    logits = paddle.to_tensor([[0.0, 500.0, -500.0], [1.0, 1.0, 1.0]], dtype="float32")
    np.testing.assert_allclose(token_entropy(logits).numpy(), [0.0, np.log(3.0)], atol=1e-4)
