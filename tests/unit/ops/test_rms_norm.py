"""The norm of the eager engine: float64's numbers on any processor, by no kernel of Paddle's that needs AVX-512."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.ops import device_kernels
from alignment.ops.native.library import find_core
from alignment.ops.native.selection import use_native_ops
from alignment.ops.rms_norm import rms_norm_inference


@pytest.fixture(params=["compiled", "composed"])
def form(request):
    """Compiled kernels or Paddle's operators; the compiled ones need a library."""
    if request.param == "compiled" and find_core().core is None:
        pytest.skip(find_core().reason)
    use_native_ops(request.param == "compiled")
    yield request.param
    use_native_ops(False)


@pytest.mark.parametrize("shape", [(1, 64), (3, 67), (130, 576), (1, 4096)])
def test_inference_gives_the_numbers_of_float64(form, shape):
    x, weight = paddle.randn(shape) * 3, paddle.rand([shape[1]]) + 0.5
    wide = x.numpy().astype(np.float64)
    wanted = wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + 1e-5) * weight.numpy()
    np.testing.assert_allclose(rms_norm_inference(x, weight, 1e-5).numpy(), wanted, rtol=2e-6)


def test_bfloat16_is_computed_in_float32_and_rounded_once(form):
    x, weight = paddle.randn([5, 64]), paddle.rand([64])
    halves = x.astype("bfloat16"), weight.astype("bfloat16")
    wanted = rms_norm_inference(*(half.astype("float32") for half in halves), 1e-5).astype("bfloat16")
    found = rms_norm_inference(*halves, 1e-5)
    assert found.dtype == paddle.bfloat16
    assert (found.astype("float32").numpy() == wanted.astype("float32").numpy()).all()


def test_the_fused_kernel_of_paddle_never_runs_on_a_cpu(form, monkeypatch):
    def fail(*_):
        raise AssertionError("this kernel ends the process with SIGILL where there is no AVX-512")

    monkeypatch.setattr(device_kernels, "_C_ops", SimpleNamespace(fused_rms_norm_ext=fail))
    rms_norm_inference(paddle.ones([2, 64]), paddle.ones([64]), 1e-5)
