"""The KL in the reward is the given coefficient times the given estimator."""

import numpy as np
import pytest

from alignment.algorithms.on_policy.ppo import PPO, PPOHyperparameters
from alignment.records import Rollout
from alignment.rollout.experience import estimate_experience, estimate_rewards
from alignment.rollout.metrics import describe_experience


def _grid(value):
    return np.full((1, 2), value, np.float32)


ROLLOUT = Rollout(
    prompts=(np.array([1]),),
    responses=(np.array([3, 2]),),
    finish_reasons=("stop",),
    group_ids=np.array([0]),
    old_logprobs=_grid(-1.0),
    ref_logprobs=_grid(-1.5),
    values=_grid(0.0),
    entropy=_grid(0.0),
    raw_scores=np.array([7.0], np.float32),
    scores=np.array([2.0], np.float32),
)


@pytest.mark.parametrize(("kind", "kl"), [("k1", 0.5), ("k2", 0.125), ("k3", np.exp(-0.5) - 1 + 0.5)])
def test_the_penalty_is_the_adapted_coefficient_times_the_estimator(kind, kl):
    experience = estimate_experience(ROLLOUT, PPO, PPOHyperparameters(kl_coeff=0.02, kl_estimator=kind), kl_coeff=0.4)
    np.testing.assert_allclose(experience.rewards, [[-0.4 * kl, 2.0 - 0.4 * kl]], rtol=1e-5)
    described = describe_experience(experience)
    assert described["train/kl_reward"].value == pytest.approx(-0.8 * kl, rel=1e-4)
    assert described["train/kl_divergence"].value == pytest.approx(1.0), "log ratio, whatever the estimator"


def test_rewards_that_were_asked_for_already_are_not_shaped_again():
    numbers, kl_coeff = PPOHyperparameters(), 0.4
    rewards = estimate_rewards(ROLLOUT, PPO, numbers, kl_coeff=kl_coeff)
    found = estimate_experience(ROLLOUT, PPO, numbers, kl_coeff=kl_coeff, rewards=rewards)
    again = estimate_experience(ROLLOUT, PPO, numbers, kl_coeff=kl_coeff)
    for name in ("advantages", "returns", "rewards", "kl_rewards"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))
    given = estimate_experience(ROLLOUT, PPO, numbers, kl_coeff=kl_coeff, rewards=rewards + 1)
    np.testing.assert_array_equal(given.rewards, rewards + 1)
    np.testing.assert_allclose(given.returns - again.returns, [[1 + numbers.gae_lambda, 1]], rtol=1e-6)


@pytest.mark.parametrize(("placement", "total"), [("score", 0.5 - 0.4), ("token", -0.2 + 0.5)])
def test_the_kl_reward_is_the_kl_part_whatever_the_clip_takes(placement, total):
    """A score of 2 clipped at 0.5; two tokens with a penalty of 0.4 x 0.5 each."""
    hyperparameters = PPOHyperparameters(clip_range_score=0.5, clip_placement=placement)
    described = describe_experience(estimate_experience(ROLLOUT, PPO, hyperparameters, kl_coeff=0.4))
    assert described["train/kl_reward"].value == pytest.approx(-0.4)
    assert described["train/norm_reward"].value == pytest.approx(2.0)
    assert described["train/norm_reward_with_kl"].value == pytest.approx(total)
