"""PPO reads its numbers; what holds for every algorithm is in tests/contract/test_algorithms.py."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest

from alignment.algorithms.advantages import gae
from alignment.algorithms.kl import kl_loss
from alignment.algorithms.on_policy.critic_free.grpo import GRPO
from alignment.algorithms.on_policy.ppo import PPO, PPOHyperparameters
from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.algorithms.on_policy.spec import Judged
from alignment.errors import ArgumentError


def judge(grid, mask, change=lambda x: x):
    ids = paddle.to_tensor([0, 0, 1, 1, 2, 2])
    ref, values = change(grid(1)), change(grid(2))
    return Judged(grid(3)[:, 0], change(grid(0)), mask, ids, ref_logprobs=ref, values=values)


def test_unknown_name_is_a_user_error():
    with pytest.raises(ArgumentError, match="did you mean 'ppo'"):
        ALGORITHMS["pppo"]


def test_critic_and_value_loss_go_together():
    with pytest.raises(AssertionError):
        dataclasses.replace(PPO, value_loss=None)


def test_adaptive_coefficient_overrides(grid, mask, same):
    judged = judge(grid, mask)
    adapted = PPO.estimate(judged, hyperparameters=PPOHyperparameters(), kl_coeff=0.5)
    fixed = PPO.estimate(judged, hyperparameters=PPOHyperparameters(kl_coeff=0.5))
    default = PPO.estimate(judged, hyperparameters=PPOHyperparameters())
    same(adapted.rewards, fixed.rewards)
    assert np.abs((adapted.rewards - default.rewards).numpy()).max() > 1e-3


def test_whitening_leaves_the_returns_alone(grid, mask, same):
    judged = judge(grid, mask)
    plain = PPO.estimate(judged, hyperparameters=PPOHyperparameters())
    whitened = PPO.estimate(judged, hyperparameters=PPOHyperparameters(normalize_advantage=True))
    same(plain.returns, whitened.returns)
    assert float(whitened.advantages.sum()) == pytest.approx(0.0, abs=1e-9)


def test_lambda_of_returns_and_advantages_may_differ_and_follow_the_length():
    """Rewards at the end: 1 after 2 tokens and after 4. Values are 0, so the return is lambda^steps; with alpha 0.5 the
    lambda of advantages is 1 - 1 / (0.5 * 2) = 0 and 1 - 1 / (0.5 * 4) = 0.5.
    """
    rows = paddle.to_tensor([[1.0, 1, 0, 0], [1, 1, 1, 1]], "float64")
    zeros = paddle.zeros_like(rows)
    judged = Judged(paddle.ones([2], "float64"), zeros, rows, paddle.to_tensor([0, 1]), zeros, zeros)
    chosen = {"kl_coeff": 0.0, "gae_lambda": 0.9, "gae_lambda_value": 1.0}
    found = PPO.estimate(judged, hyperparameters=PPOHyperparameters(**chosen))
    np.testing.assert_allclose(found.advantages, [[0.9, 1, 0, 0], [0.729, 0.81, 0.9, 1]], rtol=1e-9)
    np.testing.assert_array_equal(found.returns, rows)
    found = PPO.estimate(judged, hyperparameters=PPOHyperparameters(**chosen, gae_lambda_alpha=0.5))
    np.testing.assert_allclose(found.advantages, [[0, 1, 0, 0], [0.125, 0.25, 0.5, 1]], rtol=1e-9)
    np.testing.assert_array_equal(found.returns, rows)


def test_units_follow_the_reduction(mask):
    for reduction, count in (("token", 23), ("sequence", 5)):
        hyperparameters = PPOHyperparameters(policy_loss_reduction=reduction)
        assert PPO.count_units(mask.numpy(), hyperparameters=hyperparameters) == count


@pytest.mark.parametrize(
    ("advantage", "ratio", "change", "expected"),
    [
        (-1.0, 8.0, {}, 8.0),
        (-1.0, 8.0, {"dual_clip": 3.0}, 3.0),
        (-1.0, 0.1, {}, 0.8),
        (-1.0, 0.1, {"clip_range_ratio_low": 0.5}, 0.5),
        (1.0, 8.0, {}, -1.2),
        (1.0, 8.0, {"clip_range_ratio_high": 0.5}, -1.5),
    ],
)
def test_policy_loss_reads_its_hyperparameters(advantage, ratio, change, expected):
    one = paddle.ones([1, 1], dtype="float64")
    fields = {"old_logprobs": 0 * one, "advantages": advantage * one, "response_mask": one}
    options = {"hyperparameters": PPOHyperparameters(**change), "denominator": 1.0}
    assert float(PPO.policy_loss(np.log(ratio) * one, fields, **options).value) == pytest.approx(expected)


@pytest.mark.parametrize(("clip_range", "expected"), [(None, 0.5 * 1.0), (0.5, 0.5 * 6.25), (1.5, 0.5 * 2.25)])
def test_value_loss_reads_its_clip_range(clip_range, expected):
    """Value 3, old value 1, return 4."""
    one = paddle.ones([1, 1])
    fields = {"values": one, "returns": 4 * one, "response_mask": one}
    options = {"hyperparameters": PPOHyperparameters(clip_range_value=clip_range), "denominator": 1.0}
    assert float(PPO.value_loss(3 * one, fields, **options).value) == pytest.approx(expected)


def test_estimate_reads_gamma_and_lambda(grid, mask, same):
    judged = judge(grid, mask)
    options = {"kl_coeff": 0.0, "gamma": 0.5, "gae_lambda": 0.25}
    estimate = PPO.estimate(judged, hyperparameters=PPOHyperparameters(**options))
    expected, _ = gae(estimate.rewards, judged.values, mask=mask, gamma=0.5, gae_lambda=0.25)
    same(estimate.advantages, expected)


def test_entropy_bonus_lowers_the_loss(grid, mask):
    hyperparameters = PPOHyperparameters(entropy_coeff=0.1)
    fields = {"old_logprobs": grid(0), "advantages": grid(1), "response_mask": mask}
    options = {"hyperparameters": hyperparameters, "denominator": 23.0}
    entropy = paddle.ones_like(mask)
    with_bonus = PPO.policy_loss(grid(2), fields, entropy=entropy, **options)
    without = PPO.policy_loss(grid(2), fields, entropy=0 * entropy, **options)
    assert float(without.value - with_bonus.value) == pytest.approx(0.1)
    with pytest.raises(AssertionError, match="entropy"):
        PPO.policy_loss(grid(2), fields, **options)


@pytest.mark.parametrize("kind", ["k2", "k3", "k1+"])
def test_the_kl_in_ppos_loss_is_that_of_grpo(kind, grid, mask, same):
    fields = {"old_logprobs": grid(1), "advantages": grid(2), "response_mask": mask, "ref_logprobs": grid(3)}
    shared = {"kl_loss_coeff": 0.25, "kl_loss_estimator": kind}
    results = []
    for algorithm, limit in ((PPO, {"use_kl_loss": True, "kl_limit": 0.3}), (GRPO, {"clip_range_score": 0.3})):
        x, numbers = grid(0, grad=True), algorithm.hyperparameters(**shared, **limit)
        loss = algorithm.policy_loss(x, fields, hyperparameters=numbers, denominator=23.0)
        loss.value.backward()
        results.append((loss.value, x.grad, loss.metrics["policy/kl_loss"].value))
    for ours, theirs in zip(*results, strict=True):
        same(ours, theirs)
    without = PPO.policy_loss(grid(0), fields, hyperparameters=PPOHyperparameters(**shared), denominator=23.0)
    kl = kl_loss(grid(0), grid(3), kind=kind, clamp=0.3)
    same(results[0][0] - without.value, 0.25 * (kl * mask).sum() / 23)
    assert "policy/kl_loss" not in without.metrics, "use_kl_loss is false"
