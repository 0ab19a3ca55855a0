"""Compiled training operators against Paddle's in float64: values, gradients, and what the bits depend on."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.ops import pieces, token_logprobs
from alignment.ops.attention import causal_attention
from alignment.ops.head_layout import HeadLayout
from alignment.ops.native import selection, sources, training_ops
from alignment.ops.native.library import find_core
from alignment.ops.native.selection import native_ops_enabled, runs_natively, use_native_ops
from alignment.ops.native.training_ops import QueryRanges
from alignment.ops.rms_norm import rms_norm
from alignment.ops.rotary import PositionTables
from alignment.ops.rotary_attention import RotaryAttention
from alignment.ops.swiglu import swiglu
from alignment.ops.token_logprobs import head_logprobs, token_entropy

ISAS = tuple(sources.ISA_FLAGS.get(platform.machine(), ("scalar",)))
RELATIVE = 1e-5
"""Of the number compared, or of the largest one among the outputs or among the gradients."""


@pytest.fixture(autouse=True)
def switched_on():
    """Every test here needs the library, and leaves the switch as it was."""
    found, reason = find_core()
    if found is None and "no C++ compiler" in reason:
        pytest.skip(reason)
    assert found is not None, reason
    before = found.isa
    use_native_ops(True)
    yield
    use_native_ops(False)
    found.set_isa(before)


@pytest.fixture(params=ISAS)
def isa(request) -> str:
    """Each instruction set of this machine and library."""
    try:
        find_core().core.set_isa(request.param)
    except RuntimeError as error:
        pytest.skip(str(error))
    return request.param


def draw(*shape, seed=0, scale=1.0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape) * scale


def evaluate(operator, arrays, dtype):
    """Return (outputs, gradients of a weighted sum of them) of ``operator`` on ``arrays``, as float64 arrays."""
    inputs = [paddle.to_tensor(array.astype(dtype), stop_gradient=False) for array in arrays]
    assert runs_natively(*inputs) == (dtype == "float32")
    outputs = operator(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    weights = [paddle.to_tensor(draw(*out.shape, seed=50 + i).astype(dtype)) for i, out in enumerate(outputs)]
    sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True)).backward()
    return [out.numpy() for out in outputs], [x.grad.numpy() for x in inputs]


def assert_as_in_float64(operator, *arrays, relative=RELATIVE):
    """Compare float32, which is compiled, with float64, which is Paddle."""
    rounded = [array.astype("float32").astype("float64") for array in arrays]
    for ours, exact in zip(evaluate(operator, rounded, "float32"), evaluate(operator, rounded, "float64"), strict=True):
        largest = max(abs(b).max(initial=0) for b in exact)
        for a, b in zip(ours, exact, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, rtol=relative, atol=relative * largest)


def same_bits(a, b):
    return all(np.array_equal(x, y) for parts in zip(a, b, strict=True) for x, y in zip(*parts, strict=True))


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (200, 37), (65, 768), (2, 3, 4, 16)])
@pytest.mark.usefixtures("isa")
def test_rms_norm(shape):
    assert_as_in_float64(lambda x, w: rms_norm(x, w, 0.1), draw(*shape), draw(shape[-1], seed=1) + 1)


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (300, 64)])
@pytest.mark.usefixtures("isa")
def test_swiglu(shape):
    assert_as_in_float64(swiglu, draw(*shape, scale=4.0), draw(*shape, seed=1))


def test_swiglu_far_out():
    gate = np.array([[-200.0, -90.0, -20.0, 0.0, 20.0, 90.0, 200.0]])
    assert_as_in_float64(swiglu, gate, np.ones_like(gate))


def attention(lengths, heads, kv_heads, dim, window=None, *, queries=None, cap=0.0):
    """Return (operator of q, k, v; the drawn q, k, v)."""
    tokens = sum(lengths)
    positions = np.concatenate([np.arange(n) for n in lengths]) if tokens else np.arange(0)
    frequencies = 1e4 ** -(np.arange(0, dim, 2) / dim)

    def operator(q, k, v):
        plan = RotaryAttention(
            lengths=np.array(lengths),
            positions=positions,
            rotation=PositionTables(frequencies, 1.1),
            num_heads=heads,
            num_kv_heads=kv_heads,
            window=window,
            cap=cap,
            dtype=q.dtype,
        )
        return plan.attend(q, k, v, queries=queries)

    return operator, (
        draw(tokens if queries is None else queries.starts[-1], heads * dim),
        draw(tokens, kv_heads * dim, seed=1),
        draw(tokens, kv_heads * dim, seed=2),
    )


@pytest.mark.parametrize("lengths", [[1], [5, 1, 3], [48, 49, 47], [130, 20]])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 3, 60])
@pytest.mark.usefixtures("isa")
def test_rotary_attention(lengths, kv_heads, window):
    operator, arrays = attention(lengths, 4, kv_heads, 12, window)
    assert_as_in_float64(operator, *arrays)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.usefixtures("isa")
def test_rotary_attention_with_a_cap(window):
    operator, arrays = attention([48, 70, 1], 4, 2, 12, window, cap=3.0)
    assert_as_in_float64(operator, *arrays)


@pytest.mark.parametrize("dim", [2, 16, 64, 80, 128])
@pytest.mark.usefixtures("isa")
def test_rotary_attention_of_other_head_widths(dim):
    operator, arrays = attention([70, 9], 2, 1, dim)
    assert_as_in_float64(operator, *arrays)


RANGES = QueryRanges(np.array([69, 0, 0, 50], np.int32), np.array([0, 61, 61, 70, 71], np.int32))
"""Of sequences of 130, 20, 9 and 60 tokens: up to the end, none, all, a single one."""


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("window", [None, 3, 60])
@pytest.mark.usefixtures("isa")
def test_rotary_attention_of_ranges_of_queries(kv_heads, window):
    operator, arrays = attention([130, 20, 9, 60], 4, kv_heads, 12, window, queries=RANGES)
    assert_as_in_float64(operator, *arrays)


@pytest.mark.parametrize("window", [None, 60])
def test_ranges_of_queries_are_those_rows_of_the_attention_of_all(window):
    whole, (q, k, v) = attention([130, 20, 9, 60], 4, 2, 12, window)
    rows = RANGES.rows(np.array([0, 130, 150, 159]))
    assert rows.tolist() == [*range(69, 130), *range(150, 159), 209]
    upstream = draw(71, 48, seed=9)
    every, few = np.zeros((219, 48)), attention([130, 20, 9, 60], 4, 2, 12, window, queries=RANGES)[0]
    every[rows] = upstream
    found = []
    for operator, query, grad in ((whole, q, every), (few, q[rows], upstream)):
        inputs = [paddle.to_tensor(x.astype("float32"), stop_gradient=False) for x in (query, k, v)]
        out = operator(*inputs)
        out.backward(paddle.to_tensor(grad.astype("float32")))
        found.append([out.numpy(), *(x.grad.numpy() for x in inputs)])
    for place, (one, other) in enumerate(zip(*found, strict=True)):
        one = one[rows] if place < 2 else one
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5 * abs(one).max())


@pytest.mark.parametrize(("firsts", "starts"), [([3], [0, 3]), ([-1], [0, 1]), ([0], [1, 2])])
def test_queries_outside_of_their_sequence_are_refused(firsts, starts):
    ranges = QueryRanges(np.array(firsts, np.int32), np.array(starts, np.int32))
    operator, _ = attention([5], 1, 1, 4, queries=ranges)
    q, k = paddle.zeros([starts[-1], 4]), paddle.zeros([5, 4])
    with pytest.raises(RuntimeError, match="attention: the (queries of sequence 0 are not|first query starts at 0)"):
        operator(q, k, k)


def test_attention_with_large_scores():
    """Scores of about 1000 are known to 1e-4 in float32, and so are their exponentials."""
    operator, (q, k, v) = attention([40, 3], 2, 2, 16)
    assert_as_in_float64(operator, q * 30, k * 10, v, relative=1e-3)


@given(
    lengths=st.lists(st.integers(1, 110), min_size=1, max_size=4),
    group=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    half=st.integers(1, 20),
    window=st.none() | st.integers(1, 120),
)
@settings(max_examples=40)
def test_rotary_attention_of_any_shape(lengths, group, kv_heads, half, window):
    operator, arrays = attention(lengths, group * kv_heads, kv_heads, 2 * half, window)
    assert_as_in_float64(operator, *arrays)


@pytest.mark.parametrize("window", [None, 4])
def test_attention_without_rotation(window):
    lengths = np.array([9, 1, 50])

    def operator(q, k, v):
        layout = HeadLayout.build(lengths, num_heads=4, num_kv_heads=2, dtype=q.dtype, window=window)
        return causal_attention(q, k, v, layout)

    assert_as_in_float64(operator, draw(60, 28), draw(60, 14, seed=1), draw(60, 14, seed=2))


def split(found, parts):
    """Cut every array of ``found`` = (outputs, gradients) into rows of ``parts``."""
    edges = np.cumsum(parts)[:-1]
    return [[[np.split(array, edges)[i] for array in arrays] for arrays in found] for i in range(len(parts))]


@pytest.mark.usefixtures("isa")
def test_a_sequence_has_the_same_bits_in_any_company():
    lengths = [61, 1, 130]
    operator, arrays = attention(lengths, 4, 2, 20)
    upstream = draw(sum(lengths), 80, seed=9)

    def run(lengths, q, k, v, grad):
        inputs = [paddle.to_tensor(x.astype("float32"), stop_gradient=False) for x in (q, k, v)]
        out = attention(lengths, 4, 2, 20)[0](*inputs)
        out.backward(paddle.to_tensor(grad.astype("float32")))
        return [out.numpy()], [x.grad.numpy() for x in inputs]

    together = split(run(lengths, *arrays, upstream), lengths)
    edges = np.cumsum(lengths)[:-1]
    for i, length in enumerate(lengths):
        alone = run([length], *(np.split(x, edges)[i] for x in (*arrays, upstream)))
        assert same_bits(alone, together[i])


@pytest.mark.usefixtures("isa")
def test_a_token_has_the_same_bits_whatever_follows():
    operator, arrays = attention([100], 4, 2, 20)
    whole = evaluate(operator, arrays, "float32")[0][0]
    prefix = evaluate(attention([53], 4, 2, 20)[0], [x[:53] for x in arrays], "float32")[0][0]
    assert np.array_equal(whole[:53], prefix)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    operator, arrays = attention([90, 3, 40], 4, 2, 16)
    cases = [
        (operator, arrays),
        (lambda x, w: rms_norm(x, w, 1e-5), (draw(700, 48), draw(48))),
        (swiglu, (draw(90, 100), draw(90, 100, seed=1))),
        (lambda logits: token_entropy(logits), (draw(30, 100),)),
    ]
    for case in cases:
        found = []
        for threads in (1, 3):

            def on_threads(name, *arguments, threads=threads):
                assert getattr(training_ops._kernels(), name)(*arguments, threads) == 0

            monkeypatch.setattr(training_ops, "_call", on_threads)
            found.append(evaluate(*case, "float32"))
        assert same_bits(*found)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("logit_bytes", [64 << 20, 4 * 2100 * 3])
def test_head_logprobs_and_entropy(monkeypatch, transposed, temperature, logit_bytes):
    monkeypatch.setattr(pieces, "LOGIT_BYTES", logit_bytes)
    targets = paddle.to_tensor([0, 2099, 3, 3, 7, 1000, 5])

    def operator(hidden, weight):
        return head_logprobs(hidden, weight, targets, transposed=transposed, temperature=temperature, with_entropy=True)

    assert_as_in_float64(operator, draw(7, 6), draw(*((2100, 6) if transposed else (6, 2100)), seed=1))


def plain_logprobs(logits, targets, temperature):
    scaled = logits / temperature
    shifted = scaled - scaled.max(-1, keepdim=True)
    return paddle.take_along_axis(shifted, targets.unsqueeze(-1), -1).flatten() - shifted.exp().sum(-1).log()


@pytest.mark.parametrize("vocab", [1, 15, 16, 1025, 3000])
@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.usefixtures("isa")
def test_token_logprobs_and_entropy(vocab, scale):
    targets = paddle.to_tensor(np.arange(5) * 7 % vocab)

    def operator(logits):
        if logits.dtype == paddle.float64:  # the Paddle operator gives no token less than -64
            return plain_logprobs(logits, targets, 0.5), token_entropy(logits, temperature=0.5)
        logprobs = token_logprobs.token_logprobs(logits, targets, temperature=0.5)
        return logprobs, token_entropy(logits, temperature=0.5)

    assert_as_in_float64(operator, draw(5, vocab, scale=scale))


def test_extreme_logits():
    logits = paddle.to_tensor([[0.0, 5000.0, -5000.0], [1.0, 1.0, 1.0], [-np.inf, 0.0, 0.0]], dtype="float32")
    logits.stop_gradient = False
    logprobs = token_logprobs.token_logprobs(logits, paddle.to_tensor([0, 1, 2]))
    entropies = token_entropy(logits)
    np.testing.assert_allclose(logprobs.numpy(), [-5000.0, -np.log(3), -np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(entropies.numpy(), [0.0, np.log(3), np.log(2)], rtol=1e-6, atol=1e-7)
    (logprobs.sum() + entropies.sum()).backward()
    third = 1 / 3
    expected = [[1.0, -1.0, 0.0], [-third, 2 * third, -third], [0.0, -0.5, 0.5]]
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_damaged_logits_stay_visible():
    logits = paddle.to_tensor([[0.0, np.nan, 1.0]], dtype="float32")
    assert np.isnan(token_logprobs.token_logprobs(logits, paddle.to_tensor([0])).numpy()).all()
    assert np.isnan(token_entropy(logits).numpy()).all()


def test_a_target_outside_of_the_vocabulary_is_refused():
    with pytest.raises(RuntimeError, match="target 4 of row 1 is not in 0 .. 3"):
        token_logprobs.token_logprobs(paddle.zeros([2, 4]), paddle.to_tensor([0, 4]))


@pytest.mark.parametrize("logit_bytes", [64 << 20, 4 * 11 * 3])
def test_a_graph_can_be_used_twice(monkeypatch, logit_bytes):
    monkeypatch.setattr(pieces, "LOGIT_BYTES", logit_bytes)
    hidden, weight = (
        paddle.to_tensor(draw(*shape).astype("float32"), stop_gradient=False) for shape in ((7, 6), (6, 11))
    )
    logprobs, entropies = head_logprobs(hidden, weight, paddle.arange(7), with_entropy=True)
    first = paddle.grad(logprobs.sum(), [hidden, weight], retain_graph=True)
    again = paddle.grad(logprobs.sum(), [hidden, weight], retain_graph=True)
    assert same_bits([[x.numpy() for x in first]], [[x.numpy() for x in again]])
    of_entropy = paddle.grad(entropies.sum(), [hidden, weight])[0].numpy()
    assert abs(of_entropy - first[0].numpy()).max() > 1e-3


def test_views_are_read_where_they_lie():
    whole = paddle.to_tensor(draw(12, 20).astype("float32"))
    turned = whole.T
    assert not turned.is_contiguous()
    weight = paddle.ones([12])
    np.testing.assert_array_equal(
        rms_norm(turned, weight, 1e-5).numpy(), rms_norm(turned.clone(), weight, 1e-5).numpy()
    )
    np.testing.assert_array_equal(
        swiglu(whole[3:5], whole[4:6]).numpy(), swiglu(whole.clone()[3:5], whole[4:6].clone())
    )


def test_the_switch():
    x, weight = paddle.to_tensor(draw(3, 8).astype("float32")), paddle.ones([8])
    assert native_ops_enabled() and runs_natively(x, weight)
    assert not runs_natively(x, weight.astype("float64"))
    use_native_ops(False)
    assert not native_ops_enabled() and not runs_natively(x)
    plain = rms_norm(x, weight, 1e-5).numpy()
    use_native_ops(True)
    np.testing.assert_allclose(rms_norm(x, weight, 1e-5).numpy(), plain, rtol=1e-6)


def test_without_a_library_the_references_run(monkeypatch):
    monkeypatch.setattr(selection, "load_core", lambda: None)
    monkeypatch.setattr(training_ops, "load_core", lambda: None)
    assert not native_ops_enabled()
    assert rms_norm(paddle.ones([2, 8]), paddle.ones([8]), 0.0).numpy().max() == pytest.approx(1.0)


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads memory from /proc")
def test_graphs_that_are_dropped_free_their_memory():
    operator, arrays = attention([512], 4, 4, 128)
    q, k, v = (paddle.to_tensor(x.astype("float32"), stop_gradient=False) for x in arrays)

    def resident_mebibytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    operator(q, k, v)
    before = resident_mebibytes()
    for _ in range(100):  # 1 MiB each
        operator(q, k, v)
    assert resident_mebibytes() - before < 50
