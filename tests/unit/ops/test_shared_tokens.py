"""Attention over sequences that share leading tokens, against the same sequences each for itself."""

from __future__ import annotations

import platform

import numpy as np
import paddle
import pytest

from alignment.ops.native import sources, training_ops
from alignment.ops.native.library import find_core
from alignment.ops.native.selection import use_native_ops
from alignment.ops.native.training_ops import QueryRanges
from alignment.ops.rotary import PositionTables, rotation_tables
from alignment.ops.rotary_attention import RotaryAttention
from alignment.ops.shared_tokens import own_places, places_of

FORESTS = {
    "pair": ([60, 75], [0, 50]),
    "tree": ([40, 60, 60, 58, 9, 30], [0, 33, 55, 58, 0, 5]),
    "nothing shared": ([5, 1, 7], [0, 0, 0]),
    "equal rows": ([50, 50, 50], [0, 50, 50]),
}
HEADS, KV_HEADS, DIM = 4, 2, 12
ISAS = tuple(sources.ISA_FLAGS.get(platform.machine(), ("scalar",)))


@pytest.fixture
def compiled():
    """Switch compiled kernels on, and leave the switch and the instruction set as they were."""
    found, reason = find_core()
    if found is None and "no C++ compiler" in reason:
        pytest.skip(reason)
    assert found is not None, reason
    before = found.isa
    use_native_ops(True)
    yield found
    use_native_ops(False)
    found.set_isa(before)


@pytest.fixture(params=["reference", *ISAS])
def operators(request) -> None:
    """Paddle's operators, or the kernels of each instruction set of this machine."""
    if request.param == "reference":
        return
    core = request.getfixturevalue("compiled")
    try:
        core.set_isa(request.param)
    except RuntimeError as error:
        pytest.skip(str(error))


def draw(*shape, seed):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def attend(lengths, shared, arrays, upstream, *, dtype, window, queries=None):
    """Return (out, gradients of q, k and v)."""
    own = zip(shared if shared is not None else np.zeros_like(lengths), lengths, strict=True)
    plan = RotaryAttention(
        lengths=lengths,
        shared=shared,
        positions=np.concatenate([np.arange(first, end) for first, end in own]),
        rotation=PositionTables(1e4 ** -(np.arange(0, DIM, 2) / DIM), 1.1),
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        window=window,
        dtype=getattr(paddle, dtype),
    )
    inputs = [paddle.to_tensor(x.astype(dtype), stop_gradient=False) for x in arrays]
    out = plan.attend(*inputs, queries=queries)
    out.backward(paddle.to_tensor(upstream.astype(dtype)))
    return [out.numpy(), *(x.grad.numpy() for x in inputs)]


def test_rotations_come_from_a_table_and_are_those_of_their_positions():
    frequencies, others = 1e4 ** -(np.arange(0, DIM, 2) / DIM), 1e5 ** -(np.arange(0, DIM, 2) / DIM)
    tables, positions = PositionTables(frequencies, 1.1, others), np.array([3, 0, 40, 3])
    for asked in (positions[:2], positions):
        np.testing.assert_array_equal(tables.rotations(asked), rotation_tables(asked, frequencies, scale=1.1))
    is_long = np.array([True, False, True, False])
    mixed = np.where(is_long[:, None], others, frequencies)
    np.testing.assert_array_equal(tables.rotations(positions, is_long), rotation_tables(positions, mixed, scale=1.1))


def sums(x, whole, num_tokens):
    total = np.zeros([num_tokens, x.shape[1]])
    np.add.at(total, whole, x)
    return total


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("name", FORESTS)
@pytest.mark.usefixtures("operators")
def test_shared_tokens_have_the_sums_of_the_gradients(name, window):
    lengths, shared = map(np.array, FORESTS[name])
    num_tokens = int((lengths - shared).sum())
    whole, own = np.concatenate(places_of(lengths, shared)), own_places(lengths, shared)
    assert np.array_equal(whole[own], np.arange(num_tokens))
    arrays = [draw(num_tokens, heads * DIM, seed=i) for i, heads in enumerate((HEADS, KV_HEADS, KV_HEADS))]
    arrays = [x.astype("float32").astype("float64") for x in arrays]
    upstream = draw(num_tokens, HEADS * DIM, seed=9)
    every = np.zeros([len(whole), HEADS * DIM])
    every[own] = upstream
    exact = attend(lengths, None, [x[whole] for x in arrays], every, dtype="float64", window=window)
    exact = [exact[0][own], exact[1][own], *(sums(x, whole, num_tokens) for x in exact[2:])]
    found = attend(lengths, shared, arrays, upstream, dtype="float32", window=window)
    for ours, theirs in zip(found, exact, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * max(1, abs(theirs).max()))


@pytest.mark.usefixtures("operators")
def test_ranges_of_queries_count_shared_positions():
    lengths, shared = map(np.array, FORESTS["tree"])
    num_tokens = int((lengths - shared).sum())
    queries = QueryRanges(np.array([20, 59, 55, 58, 0, 5], np.int32), np.array([0, 20, 21, 26, 26, 35, 60], np.int32))
    origins = np.cumsum(lengths - shared) - lengths
    rows = queries.rows(origins)
    q, k, v = (draw(num_tokens, heads * DIM, seed=i) for i, heads in enumerate((HEADS, KV_HEADS, KV_HEADS)))
    upstream = draw(60, HEADS * DIM, seed=9)
    every = np.zeros([num_tokens, HEADS * DIM])
    every[rows] = upstream
    exact = attend(lengths, shared, (q, k, v), every, dtype="float64", window=None)
    found = attend(lengths, shared, (q[rows], k, v), upstream, dtype="float32", window=None, queries=queries)
    for place, (ours, theirs) in enumerate(zip(found, exact, strict=True)):
        theirs = theirs[rows] if place < 2 else theirs
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-6 * abs(theirs).max())


@pytest.mark.parametrize("shared", [[0, 6], [1, 0], [0, -1]])
@pytest.mark.usefixtures("compiled")
def test_more_tokens_than_there_are_cannot_be_shared(shared):
    heads = training_ops.RaggedHeads(np.array([0, 5, 9], np.int32), 1, 1, None, shared=np.array(shared, np.int32))
    q = paddle.zeros([9, 4])
    with pytest.raises(RuntimeError, match="shares more tokens than the one before it has"):
        training_ops.attention(q, q, q, heads)
