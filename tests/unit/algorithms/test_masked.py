"""Masked sums, means, moments and whitening, over one rank and several."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.masked import (
    TokenMean,
    count_units,
    masked_mean,
    masked_moments,
    masked_normalize,
    masked_sum,
    masked_whiten,
    zero_outside,
)


def test_sum_and_mean_by_hand():
    x = paddle.to_tensor([[1.0, 3.0, 100.0], [5.0, -100.0, 100.0]])
    mask = paddle.to_tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert float(masked_sum(x, mask)) == 9.0
    assert float(masked_mean(x, mask)) == 3.0
    assert masked_mean(x, mask, dim=1).tolist() == [2.0, 5.0]


def test_token_mean_by_hand():
    x, mask = paddle.to_tensor([[1.0, 3.0], [5.0, 9.0]]), paddle.to_tensor([[1.0, 1.0], [1.0, 0.0]])
    assert float(TokenMean(mask, 3, "token").of(x)) == 3.0
    assert float(TokenMean(mask, 2, "sequence").of(x)) == 3.5
    constant = TokenMean(mask, 2, "constant", 4)
    assert float(constant.of(x)) == 1.125 and float(constant.average(x)) == 3.5
    assert [count_units(mask, reduction).item() for reduction in ("token", "sequence", "constant")] == [3, 2, 2]


def test_nan_under_the_mask_is_not_read():
    x = paddle.to_tensor([[1.0, float("nan")], [float("inf"), 2.0]])
    mask = paddle.to_tensor([[1.0, 0.0], [0.0, 1.0]])
    assert zero_outside(x, mask).tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert float(masked_mean(x, mask)) == 1.5


def test_mean_of_nothing_is_zero():
    x = paddle.ones([2, 3])
    assert masked_mean(x, paddle.zeros([2, 3]), dim=-1).tolist() == [0.0, 0.0]


def test_count_units_takes_numpy_and_paddle(mask):
    for form in (mask, mask.numpy()):
        assert float(count_units(form, "token")) == 23
        assert float(count_units(form, "sequence")) == 5


def test_moments_equal_numpy(grid, mask, same):
    x = grid(0)
    real = x.numpy()[mask.numpy() > 0]
    for unbiased in (False, True):
        mean, variance = masked_moments(x, mask, unbiased=unbiased)
        same(mean, real.mean())
        same(variance, real.var(ddof=int(unbiased)))


def test_variance_does_not_cancel_in_float32():
    x = paddle.to_tensor(1e4 + np.random.default_rng(0).standard_normal((64, 64)), dtype="float32")
    _, variance = masked_moments(x, paddle.ones_like(x))
    assert float(variance) == pytest.approx(x.numpy().astype(np.float64).var(), rel=1e-3)


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whiten(grid, mask, same, shift_mean):
    x = grid(0)
    whitened = masked_whiten(x, mask, shift_mean=shift_mean)
    mean, variance = masked_moments(whitened, mask)
    same(mean, 0.0 if shift_mean else masked_mean(x, mask))
    assert float(variance) == pytest.approx(1.0, abs=1e-6)
    same(zero_outside(whitened, 1 - mask), np.zeros(x.shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("constant", [0.1, -0.3, 1e4 / 3, 1e-6])
def test_whitened_constants_are_zero_whatever_rounding_makes_of_them(constant, dtype, mask):
    """A mean of floats is not the float, and a sum of rewards is not the same in every row: one unit in the last
    place over a deviation of as much is 1 or more.
    """
    x = paddle.full(mask.shape, constant, dtype)
    noise = 1 + np.random.default_rng(0).integers(-1, 2, mask.shape) * np.finfo(dtype).eps
    for values in (x, x * paddle.to_tensor(noise.astype(dtype))):
        for unbiased in (False, True):
            assert not masked_whiten(values, mask.astype(dtype), unbiased=unbiased).numpy().any()
        kept = masked_whiten(values, mask.astype(dtype), shift_mean=False).numpy()
        np.testing.assert_allclose(kept, constant * mask.numpy(), rtol=1e-6)
    assert float(masked_moments(x * paddle.to_tensor(noise.astype(dtype)), mask.astype(dtype))[1]) == 0.0


def test_small_differences_are_whitened():
    x = paddle.to_tensor([[1.0, 1.0 + 1e-4]], dtype="float32")
    np.testing.assert_allclose(masked_whiten(x, paddle.ones([1, 2])).numpy(), [[-1.0, 1.0]], rtol=1e-3)


def test_normalize_rows(grid, mask):
    y = masked_normalize(grid(0), mask, dim=1).numpy()
    np.testing.assert_allclose(y[0].mean(), 0.0, atol=1e-12)
    np.testing.assert_allclose(y[0].std(), 1.0, atol=1e-6)
    assert not y[2].any() and not y[4].any()


@pytest.mark.parametrize("constant", [0.1, 100.7, -3e4 / 7])
def test_normalized_rows_of_equal_values_are_zero(constant):
    assert not masked_normalize(paddle.full([2, 7], constant), paddle.ones([2, 7]), dim=1).numpy().any()
