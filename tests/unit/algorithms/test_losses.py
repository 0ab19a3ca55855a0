"""Properties every token loss has: pure, blind to padding, additive over micro-batches."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.masked import TokenMean, count_units
from alignment.algorithms.policy_losses import RatioClip, entropy_bonus, ppo_policy_loss
from alignment.algorithms.supervised_losses import cross_entropy
from alignment.algorithms.value_losses import clipped_value_loss, explained_variance, pearson
from alignment.metrics import reduce_metrics


def policy(x, others, mean):
    return ppo_policy_loss(x, others[0], advantages=others[1], clip=RatioClip(0.2, 0.28, 3.0), mean=mean)


def value(x, others, mean):
    return clipped_value_loss(x, others[0], returns=others[1], clip_range=0.3, mean=mean)


def entropy(x, others, mean):
    return entropy_bonus(x, coeff=0.1, mean=mean)


LOSSES = pytest.mark.parametrize("loss", [policy, value, entropy])
REDUCTIONS = pytest.mark.parametrize("reduction", ["token", "sequence", "constant"])


def means(mask, reduction, parts=(slice(None),)):
    denominator = float(count_units(mask, reduction))
    return [TokenMean(mask[part], denominator, reduction, 7.0) for part in parts]


@LOSSES
@REDUCTIONS
def test_padding_is_neither_read_nor_moved(grid, mask, spoil, same, loss, reduction):
    (mean,) = means(mask, reduction)
    results = []
    for change in (lambda x: grid(x), lambda x: spoil(grid(x))):
        x = change(0)
        x.stop_gradient = False
        result = loss(x, [change(1), change(2)], mean)
        result.value.backward()
        results.append((result, x.grad))
    (clean, clean_grad), (spoilt, spoilt_grad) = results
    same(clean.value, spoilt.value)
    same(clean_grad, spoilt_grad)
    assert not (spoilt_grad * (1 - mask)).numpy().any()
    assert clean_grad.numpy().any()
    assert reduce_metrics([clean.metrics]) == pytest.approx(reduce_metrics([spoilt.metrics]))


@LOSSES
def test_nan_in_the_padding_is_harmless(grid, mask, same, loss):
    (mean,) = means(mask, "token")
    others = [paddle.where(mask > 0, grid(seed), paddle.full_like(mask, float("nan"))) for seed in (1, 2)]
    x = paddle.where(mask > 0, grid(0), paddle.full_like(mask, float("nan"))).detach()
    x.stop_gradient = False
    result = loss(x, others, mean)
    result.value.backward()
    same(result.value, loss(grid(0), [grid(1), grid(2)], mean).value)
    assert np.isfinite(x.grad.numpy()).all() and not (x.grad * (1 - mask)).numpy().any()
    assert np.isfinite(list(reduce_metrics([result.metrics]).values())).all()


@LOSSES
@REDUCTIONS
def test_micro_batches_add_up(grid, mask, same, loss, reduction):
    x = grid(0, grad=True)
    (mean,) = means(mask, reduction)
    whole = loss(x, [grid(1), grid(2)], mean)
    whole.value.backward()
    whole_grad = x.grad.numpy()
    x.clear_grad()
    parts = (slice(0, 1), slice(1, 4), slice(4, 6))
    results = []
    for part, mean in zip(parts, means(mask, reduction, parts), strict=True):
        results.append(loss(x[part], [grid(1)[part], grid(2)[part]], mean))
        results[-1].value.backward()
    same(sum(float(result.value) for result in results), float(whole.value))
    same(x.grad, whole_grad)
    together = reduce_metrics([result.metrics for result in results])
    assert together == pytest.approx(reduce_metrics([whole.metrics]))


@LOSSES
def test_inputs_are_unchanged_and_metrics_carry_no_gradient(grid, mask, loss):
    x, others = grid(0, grad=True), [grid(1), grid(2)]
    before = [tensor.numpy().copy() for tensor in (x, *others, mask)]
    result = loss(x, others, means(mask, "token")[0])
    result.value.backward()
    for tensor, old in zip((x, *others, mask), before, strict=True):
        assert (tensor.numpy() == old).all()
    assert all(metric.value.stop_gradient for metric in result.metrics.values())


def test_first_step_of_ppo(grid, mask):
    """Policy equal to the old policy: ratio 1, nothing clipped, no KL, gradient -A / count."""
    x = grid(0, grad=True)
    loss = policy(x, [grid(0), grid(2)], means(mask, "token")[0])
    loss.value.backward()
    metrics = reduce_metrics([loss.metrics])
    assert metrics["policy/ratio_mean"] == pytest.approx(1.0)
    assert metrics["policy/ratio_max"] == 1.0
    assert metrics["policy/clip_fraction"] == metrics["policy/approx_kl"] == metrics["policy/approx_kl_k3"] == 0.0
    np.testing.assert_allclose(x.grad.numpy(), -(grid(2) * mask).numpy() / 23, atol=1e-12)


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "dual", "expected"),
    [
        (2.0, np.log(1.5), None, -2.0 * 1.2),
        (2.0, np.log(0.5), None, -2.0 * 0.5),
        (-2.0, np.log(0.5), None, 2.0 * 0.9),
        (-2.0, np.log(8.0), None, 2.0 * 8.0),
        (-2.0, np.log(8.0), 3.0, 2.0 * 3.0),
        (0.0, 1000.0, None, 0.0),
    ],
)
def test_clip_by_hand(advantage, log_ratio, dual, expected):
    one = paddle.ones([1, 1], dtype="float64")
    clip = RatioClip(0.1, 0.2, dual)
    loss = ppo_policy_loss(log_ratio * one, 0 * one, advantages=advantage * one, clip=clip, mean=TokenMean(one, 1.0))
    assert float(loss.value) == pytest.approx(expected)


@pytest.mark.parametrize("level", ["token", "sequence", "sequence_token"])
def test_kl_to_the_sampling_policy_is_that_of_tokens_whatever_has_one_ratio(level):
    """Log-ratios +-0.5 of mean 0, whose sequence ratio is 1: k3 is cosh(0.5) - 1 on average, k1 is 0."""
    ones = paddle.ones([1, 4], dtype="float64")
    x = paddle.to_tensor([[0.5, -0.5, 0.5, -0.5]], "float64")
    mean = TokenMean(ones, 4.0)
    loss = ppo_policy_loss(x, 0 * ones, advantages=ones, clip=RatioClip(level=level), mean=mean)
    metrics = reduce_metrics([loss.metrics])
    assert metrics["policy/approx_kl_k3"] == pytest.approx(np.cosh(0.5) - 1)
    assert metrics["policy/approx_kl"] == pytest.approx(0.0)
    assert metrics["policy/ratio_mean"] == pytest.approx(np.cosh(0.5) if level == "token" else 1.0)


def test_extreme_ratio_stays_finite_in_float32():
    one = paddle.ones([1, 2])
    x = (200.0 * one).detach()
    x.stop_gradient = False
    loss = ppo_policy_loss(x, 0 * one, advantages=0 * one, clip=RatioClip(), mean=TokenMean(one, 2.0))
    loss.value.backward()
    assert float(loss.value) == 0.0 and not x.grad.numpy().any()


@pytest.mark.parametrize(("clip_range", "expected", "fraction"), [(None, 0.5 * 1.0, 0.0), (0.5, 0.5 * 6.25, 1.0)])
def test_value_clip_by_hand(clip_range, expected, fraction):
    """Value 3, old 1, return 4: unclipped error 1, clipped value 1.5 with error 6.25."""
    one = paddle.ones([1, 1])
    mean = TokenMean(one, 1.0)
    loss = clipped_value_loss(3.0 * one, one, returns=4.0 * one, clip_range=clip_range, mean=mean)
    assert float(loss.value) == pytest.approx(expected)
    assert float(loss.metrics["critic/clip_fraction"].value) == fraction


def test_cross_entropy_adds_up():
    logprobs = paddle.to_tensor([-1.0, -2.0, -4.0])
    parts = [cross_entropy(part, denominator=3) for part in (logprobs[:1], logprobs[1:])]
    assert sum(float(part.value) for part in parts) == pytest.approx(7 / 3)
    assert reduce_metrics([part.metrics for part in parts])["supervised/loss"] == pytest.approx(7 / 3)


def test_explained_variance(grid, mask, spoil, same):
    returns, other, on = grid(0).numpy(), grid(1).numpy(), mask.numpy()
    same(explained_variance(returns, returns, mask=on), 1.0)
    same(explained_variance(returns + 3.0, returns, mask=on), 1.0)
    same(explained_variance(np.zeros_like(returns), returns, mask=on), 0.0)
    same(explained_variance(returns, np.ones_like(returns), mask=on), 0.0)
    spoilt = (spoil(grid(seed)).numpy() for seed in (1, 0))
    same(explained_variance(*spoilt, mask=on), explained_variance(other, returns, mask=on))
    assert explained_variance(returns, returns, mask=np.zeros_like(on)) == 0.0


def test_explained_variance_of_equal_numbers_is_not_rounding_noise():
    returns = np.full((3, 7), 0.1, np.float32)
    assert explained_variance(np.random.default_rng(0).standard_normal((3, 7)), returns, mask=np.ones((3, 7))) == 0.0


def test_pearson(same):
    x, y = np.random.default_rng(0).standard_normal((2, 50))
    same(pearson(x, y), np.corrcoef(x, y)[0, 1])
    same(pearson(x, -2 * x + 1), -1.0)
    same(pearson(x, np.ones_like(x)), 0.0)
