"""Weights in 4 bits: bitsandbytes' own bytes, products, and gradients."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from alignment.ops import nf4
from alignment.ops.nf4 import BLOCK, LEVELS, Nf4Weight, nf4_product, quantise


@pytest.fixture(scope="module")
def golden(repo_root):
    return json.loads((repo_root / "tests" / "golden" / "nf4.json").read_text())


def _pack(weight: np.ndarray) -> Nf4Weight:
    codes, scales = quantise(weight)
    return Nf4Weight(paddle.to_tensor(codes), paddle.to_tensor(scales))


def _random(outputs: int, inputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(outputs, inputs)).astype(np.float32)


def test_bytes_and_numbers_are_those_of_bitsandbytes(golden):
    weight = np.array(golden["weight"], np.float32)
    codes, scales = quantise(weight)
    np.testing.assert_array_equal(scales.flatten(), np.array(golden["absmax"], np.float32))
    # Under a scale of zero bitsandbytes' bytes mean nothing: both unpack to zero.
    used = np.repeat(scales.flatten() > 0, BLOCK // 2)
    np.testing.assert_array_equal(codes.flatten()[used], np.array(golden["codes"], np.uint8)[used])
    np.testing.assert_array_equal(_pack(weight).unpack().numpy(), np.array(golden["dequantised"], np.float32))


def test_every_level_is_kept_exactly():
    weight = np.tile(LEVELS * np.float32(0.37), BLOCK // len(LEVELS))[None]
    np.testing.assert_array_equal(_pack(weight).unpack().numpy(), weight)


def test_a_number_takes_four_and_a_half_bits():
    assert _pack(_random(32, 256)).nbytes * 8 / (32 * 256) == 4.5


def test_inputs_that_are_no_whole_blocks_are_refused():
    with pytest.raises(ValueError, match="100 inputs are not a multiple of 64"):
        quantise(_random(2, 100))


@pytest.mark.parametrize("numbers_at_once", [2**22, 3 * 128])
def test_product_and_gradient_are_those_of_the_unpacked_weight(numbers_at_once, monkeypatch):
    monkeypatch.setattr(nf4, "_NUMBERS_AT_ONCE", numbers_at_once)
    weight = _pack(_random(10, 128))
    dense = weight.unpack()
    x, again = (paddle.to_tensor(_random(5, 128, seed=1), stop_gradient=False) for _ in range(2))
    y, wanted = nf4_product(x, weight), paddle.matmul(again, dense, transpose_y=True)
    np.testing.assert_allclose(y.numpy(), wanted.numpy(), rtol=1e-6, atol=1e-5)
    factor = paddle.to_tensor(_random(5, 10, seed=2))
    (y * factor).sum().backward()
    (wanted * factor).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), again.grad.numpy(), rtol=1e-6, atol=1e-5)


def test_parts_cut_at_blocks_are_those_of_the_whole():
    weight = _random(8, 256)
    whole = _pack(weight).unpack().numpy()
    np.testing.assert_array_equal(_pack(weight[:, 128:]).unpack().numpy(), whole[:, 128:])
    np.testing.assert_array_equal(_pack(weight[3:5]).unpack().numpy(), whole[3:5])
