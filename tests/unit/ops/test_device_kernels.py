"""What runs on a GPU in half precision, by operators of the same signature on a CPU."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.ops import device_kernels, pieces
from alignment.ops.attention import causal_attention, decode_attention
from alignment.ops.head_layout import HeadLayout
from alignment.ops.head_product import HeadProduct
from alignment.ops.rms_norm import rms_norm, rms_norm_inference
from alignment.ops.swiglu import swiglu
from tests.bf16.cpu_site import gpu_on_cpu


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of the eighth generation or later; ``calls`` counts what is asked of its operators."""
    found = SimpleNamespace(calls=[])

    def counted(operator):
        return lambda *given, **named: found.calls.append(operator.__name__) or operator(*given, **named)

    for name, replacement in gpu_on_cpu.stand_in().items():
        monkeypatch.setattr(device_kernels, name, replacement)
    for name in ("flash_attn_unpadded", "flashmask_attention"):
        monkeypatch.setattr(device_kernels, name, counted(getattr(gpu_on_cpu, name)))
    norm = counted(gpu_on_cpu.fused_rms_norm_ext)
    monkeypatch.setattr(device_kernels, "_C_ops", SimpleNamespace(fused_rms_norm_ext=norm))
    return found


def draw(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
    tensor = paddle.to_tensor(values).astype("bfloat16")
    tensor.stop_gradient = False
    return tensor


def with_gradients(compute, *inputs):
    """Return the outcome of ``compute`` and the gradients of a weighted sum of it, in float32."""
    out = compute(*inputs)
    weights = draw(*out.shape, seed=9).detach().astype("float32")
    grads = paddle.grad((out.astype("float32") * weights).sum(), list(inputs))
    return [x.astype("float32").numpy() for x in (out, *grads)]


def test_a_cpu_has_none_of_the_operators_but_takes_their_arguments():
    matrix, scale = paddle.ones([2, 8]), paddle.ones([8])
    for name, given in (
        ("fused_rms_norm_ext", (matrix, scale, 1e-5)),
        ("fused_linear_param_grad_add", (matrix, matrix, None, None, True, False)),
    ):
        with pytest.raises(RuntimeError, match="not registered"):
            getattr(paddle._C_ops, name)(*given)


def test_a_kernel_of_a_cpu_is_none_of_a_gpu():
    assert "(CPU, Undefined(AnyLayout), float32)" in device_kernels._kernels()["matmul"]
    assert not device_kernels.has_kernel("matmul", paddle.float32)
    assert not device_kernels.on_device(paddle.ones([1]))


def test_kernels_are_known_by_name_device_and_dtype(monkeypatch):
    kernels = {"norm": ["(GPU, Undefined(AnyLayout), bfloat16)", "(CPU, Undefined(AnyLayout), float32)"]}
    monkeypatch.setattr(device_kernels, "_kernels", lambda: kernels)
    asked = [("norm", paddle.bfloat16), ("norm", paddle.float32), ("norm", paddle.float16), ("other", paddle.bfloat16)]
    assert [device_kernels.has_kernel(*pair) for pair in asked] == [True, False, False, False]


@pytest.mark.parametrize("lengths", [[5, 5], [2, 7, 1]])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 1, 3, 7, 100])
def test_ragged_rows_go_to_flash_attention_as_they_are(gpu, monkeypatch, lengths, kv_heads, window):
    tokens = sum(lengths)
    q, k, v = draw(tokens, 32), draw(tokens, kv_heads * 8, seed=1), draw(tokens, kv_heads * 8, seed=2)
    layout = HeadLayout.build(np.array(lengths), num_heads=4, num_kv_heads=kv_heads, dtype="float32", window=window)
    found = with_gradients(lambda *x: causal_attention(*x, layout), q, k, v)
    is_windowed = window is not None and window < max(lengths)
    assert gpu.calls == ["flashmask_attention" if is_windowed else "flash_attn_unpadded"]
    assert not {"mask", "queries", "keys"} & layout.__dict__.keys(), "made, though flash attention takes none"
    monkeypatch.setattr(device_kernels, "on_device", lambda *_: False)
    for one, other in zip(found, with_gradients(lambda *x: causal_attention(*x, layout), q, k, v), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.01, atol=0.01)


def assert_rounded_once(found, wanted):
    """The last bit of a float32 product depends on where its arrays lie in memory, and may turn a rounding."""
    found, wanted = found.astype("float32").numpy(), wanted.astype("float32").numpy()
    np.testing.assert_allclose(found, wanted, rtol=2**-6)
    assert (found != wanted).mean() < 0.03


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("obstacle", ["head of 12", "old device", "no kernel", "float32"])
def test_what_flash_attention_cannot_do_is_computed_in_float32(gpu, monkeypatch, obstacle, window):
    dim = 12 if obstacle == "head of 12" else 8
    if obstacle == "old device":
        monkeypatch.setattr(device_kernels, "_generation", lambda: 7)
    if obstacle == "no kernel":
        monkeypatch.setattr(device_kernels, "has_kernel", lambda *_: False)
    q, k, v = (draw(9, 2 * dim, seed=n).astype("float32" if obstacle == "float32" else "bfloat16") for n in range(3))
    layout = HeadLayout.build(np.array([4, 5]), num_heads=2, num_kv_heads=2, dtype="float32", window=window)
    out = causal_attention(q, k, v, layout)
    assert gpu.calls == [] and out.dtype == q.dtype
    exact = causal_attention(*(x.astype("float32") for x in (q, k, v)), layout).astype(q.dtype)
    assert_rounded_once(out, exact)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_tied_head_is_copied_once_for_all_pieces(gpu, monkeypatch, transposed):
    heads = []

    def product(a, b, *others):
        heads.append(b)
        return gpu_on_cpu.fused_linear_param_grad_add(a, b, *others)

    monkeypatch.setattr(device_kernels, "_C_ops", SimpleNamespace(fused_linear_param_grad_add=product))
    hidden, weight = draw(6, 8).detach(), draw(5, 8, seed=1).detach() if transposed else draw(8, 5, seed=1).detach()
    head = HeadProduct(weight, transposed)
    found = paddle.concat([head.logits(hidden[:3]), head.logits(hidden[3:])])
    wide = [x.astype("float32").numpy() for x in (hidden, weight)]
    np.testing.assert_allclose(found.numpy(), wide[0] @ (wide[1].T if transposed else wide[1]), rtol=1e-5, atol=1e-5)
    assert heads[0] is heads[1] and heads[0].is_contiguous()


def test_a_norm_is_one_kernel_and_rounded_once(gpu, monkeypatch):
    x, weight = draw(3, 2, 8), draw(8, seed=1)
    found = with_gradients(lambda *given: rms_norm(*given, 1e-3), x, weight)
    same = rms_norm_inference(x.reshape([6, 8]), weight, 1e-3)
    assert gpu.calls == ["fused_rms_norm_ext"] * 2
    np.testing.assert_array_equal(same.astype("float32").numpy(), found[0].reshape([6, 8]))
    monkeypatch.setattr(device_kernels, "on_device", lambda *_: False)
    for one, other in zip(found, with_gradients(lambda *given: rms_norm(*given, 1e-3), x, weight), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.01, atol=0.01)


def test_a_norm_with_a_scale_of_another_type_has_no_kernel(gpu):
    rms_norm(draw(3, 8), draw(8).astype("float32"), 1e-3)
    assert gpu.calls == []


def test_the_activation_is_one_kernel(monkeypatch):
    monkeypatch.setattr(device_kernels, "on_device", lambda *_: True)
    gate, up = (paddle.to_tensor(np.float32([[-2.0, 0.0, 3.0]]) + n, stop_gradient=False) for n in (0, 1))
    wanted = gate.numpy() / (1 + np.exp(-gate.numpy())) * up.numpy()
    np.testing.assert_allclose(swiglu(gate, up).numpy(), wanted, rtol=1e-6)
    assert swiglu(gate, up).grad_fn.name() == "SwigluGradNode"


@pytest.mark.parametrize("key_bytes", [512 << 20, 4 * 7 * 8 * 2, 1])
def test_a_step_in_half_precision_rounds_only_what_attention_gives(monkeypatch, key_bytes):
    monkeypatch.setattr(pieces, "WIDE_KEY_BYTES", key_bytes)
    generator = np.random.default_rng(0)
    q, keys, values = (draw(5, n, 8, seed=n).detach() for n in (3, 7, 7))
    mask = paddle.to_tensor(np.where(generator.random((5, 3, 7)) < 0.3, np.float32(-1e30), np.float32(0)))
    out = decode_attention(q, keys, values, mask, 0.35)
    exact = decode_attention(*(x.astype("float32") for x in (q, keys, values)), mask, 0.35)
    assert_rounded_once(out, exact.astype("bfloat16"))
