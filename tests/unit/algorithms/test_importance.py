"""Truncated importance weights, and the loss they multiply."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.importance import truncated_importance_weights
from alignment.algorithms.masked import TokenMean
from alignment.algorithms.on_policy.ppo import PPO, PPOHyperparameters
from alignment.algorithms.policy_losses import RatioClip, ppo_policy_loss


def test_weights_by_hand():
    """Probabilities of trainer and engine: 0.5 / 0.25 = 2, 0.3 / 0.4 = 0.75, 0.9 / 0.1 = 9 cut to 3, padding 0."""
    trainer = paddle.to_tensor(np.log([[0.5, 0.3], [0.9, 0.7]]).astype(np.float32), stop_gradient=False)
    engine = paddle.to_tensor(np.log([[0.25, 0.4], [0.1, 0.1]]).astype(np.float32))
    mask = paddle.to_tensor([[1.0, 1.0], [1.0, 0.0]])
    weights = truncated_importance_weights(trainer, engine, mask=mask, cap=3.0)
    np.testing.assert_allclose(weights.numpy(), [[2.0, 0.75], [3.0, 0.0]], rtol=1e-6)
    assert weights.stop_gradient and weights.dtype == paddle.float32


def test_agreement_gives_exactly_one(grid, mask):
    weights = truncated_importance_weights(grid(0), grid(0), mask=mask, cap=1.0)
    np.testing.assert_array_equal(weights.numpy(), mask.numpy())


@pytest.mark.parametrize("garbage", [1e6, -1e6, float("nan"), float("inf")])
def test_what_stands_under_the_mask_is_not_read(grid, mask, same, garbage):
    padded = paddle.where(mask > 0, grid(0), paddle.full_like(mask, garbage))
    clean = truncated_importance_weights(grid(0), grid(1), mask=mask, cap=1.5)
    same(truncated_importance_weights(padded, grid(1), mask=mask, cap=1.5), clean)
    same(truncated_importance_weights(grid(0), padded, mask=mask, cap=1.5).numpy()[mask.numpy() == 0], 0.0)
    assert float(clean.max()) == 1.5 and not (clean * (1 - mask)).numpy().any()


def test_ratios_that_overflow_are_cut_and_those_that_vanish_are_zero():
    zero = paddle.zeros([1, 2])
    weights = truncated_importance_weights(
        paddle.to_tensor([[500.0, -500.0]]), zero, mask=paddle.ones([1, 2]), cap=float("inf")
    )
    assert np.isfinite(weights.numpy()).all() and weights.numpy()[0, 1] == 0.0


def test_untruncated_weights_turn_the_mean_under_the_engine_into_that_under_the_trainer():
    """Over a whole vocabulary, the sum of engine * weight * f is the sum of trainer * f."""
    rng = np.random.default_rng(0)
    engine, trainer = (paddle.to_tensor(np.log(rng.dirichlet(np.ones(9)))[None]) for _ in range(2))
    values = rng.standard_normal(9)
    weights = truncated_importance_weights(trainer, engine, mask=paddle.ones([1, 9]), cap=float("inf")).numpy()[0]
    expected = (np.exp(trainer.numpy()[0]) * values).sum()
    assert (np.exp(engine.numpy()[0]) * weights * values).sum() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_weights_multiply_loss_and_gradient_of_each_token(grid, mask, same, reduction):
    """The same as advantages times the weights, which are not negative; the metrics of the ratio are untouched."""
    weights, results = paddle.abs(grid(5)), []
    for advantages, options in ((grid(2), {"weights": weights}), (grid(2) * weights, {})):
        x = grid(0, grad=True)
        mean = TokenMean(mask, 23.0, reduction)
        loss = ppo_policy_loss(x, grid(1), advantages=advantages, clip=RatioClip(0.2, 0.28, 3.0), mean=mean, **options)
        loss.value.backward()
        results.append((loss, x.grad))
    (weighted, weighted_grad), (scaled, scaled_grad) = results
    same(weighted.value, scaled.value)
    same(weighted_grad, scaled_grad)
    for name in ("policy/ratio_mean", "policy/approx_kl", "policy/ratio_max"):
        same(weighted.metrics[name].value, scaled.metrics[name].value)


def test_the_field_is_read_by_ppo_and_ones_change_nothing(grid, mask, same):
    fields = {"old_logprobs": grid(0), "advantages": grid(1), "response_mask": mask}
    options = {"hyperparameters": PPOHyperparameters(entropy_coeff=0.1), "denominator": 23.0}
    plain, ones, doubled = (
        PPO.policy_loss(grid(2), {**fields, **more}, entropy=grid(3), **options).value
        for more in ({}, {"importance_weights": mask}, {"importance_weights": 2 * mask})
    )
    same(plain, ones)
    bonus = 0.1 * float((grid(3) * mask).sum()) / 23
    assert float(doubled) + bonus == pytest.approx(2 * (float(plain) + bonus)), "the entropy bonus is not weighted"
