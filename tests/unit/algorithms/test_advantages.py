"""GAE against its definition, returns, group advantages."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.algorithms.advantages import discounted_sums, gae, group_normalized, leave_one_out, reinforce_returns


def slow_gae(rewards, values, mask, gamma, gae_lambda):
    """The definition, one token at a time from the end; the value after the last real token is 0."""
    advantages = np.zeros_like(rewards)
    for row, length in enumerate(mask.sum(1).astype(int)):
        running, next_value = 0.0, 0.0
        for t in reversed(range(length)):
            delta = rewards[row, t] + gamma * next_value - values[row, t]
            running = delta + gamma * gae_lambda * running
            advantages[row, t], next_value = running, values[row, t]
    return advantages, (advantages + values) * mask


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 19), min_size=1, max_size=4),
    gamma=st.sampled_from([1.0, 0.97, 0.0]),
    gae_lambda=st.sampled_from([1.0, 0.95, 0.0]),
    seed=st.integers(0, 1000),
)
def test_fast_equals_slow(lengths, gamma, gae_lambda, seed):
    width = max([*lengths, 1])
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.float64)
    rewards, values = np.random.default_rng(seed).standard_normal((2, *mask.shape))
    tensors = (paddle.to_tensor(rewards), paddle.to_tensor(values))
    fast = gae(*tensors, mask=paddle.to_tensor(mask), gamma=gamma, gae_lambda=gae_lambda)
    for actual, expected in zip(fast, slow_gae(rewards, values, mask, gamma, gae_lambda), strict=True):
        np.testing.assert_allclose(actual.numpy(), expected, atol=1e-12)


def test_float32_is_near_float64_on_long_responses():
    values = np.random.default_rng(0).standard_normal((2, 1, 4096))
    arrays = [paddle.to_tensor(x.astype(np.float32)) for x in values]
    mask = np.ones((1, 4096), np.float32)
    fast, _ = gae(*arrays, mask=paddle.to_tensor(mask), gamma=1.0, gae_lambda=0.95)
    slow, _ = slow_gae(values[0], values[1], mask, 1.0, 0.95)
    np.testing.assert_allclose(fast.numpy(), slow, atol=1e-5)


def test_discounted_sums_by_hand():
    assert discounted_sums(paddle.to_tensor([[1.0, 2.0, 4.0]]), 0.5).tolist() == [[3.0, 4.0, 4.0]]


def test_reinforce_is_gae_without_values(grid, mask, same):
    rewards = grid(0)
    advantages, _ = gae(rewards, paddle.zeros_like(rewards), mask=mask, gamma=0.9, gae_lambda=1.0)
    same(reinforce_returns(rewards, mask, gamma=0.9), advantages)


def test_garbage_under_the_mask_changes_nothing(grid, mask, spoil, same):
    options = {"mask": mask, "gamma": 0.9, "gae_lambda": 0.8}
    clean = gae(grid(0), grid(1), **options)
    spoilt = gae(spoil(grid(0)), spoil(grid(1)), **options)
    for x, y in zip(clean, spoilt, strict=True):
        same(x, y)
        same(y * (1 - mask), np.zeros(mask.shape))


def test_groups_by_hand():
    scores = paddle.to_tensor([1.0, 5.0, 3.0, 7.0], dtype="float64")
    groups = paddle.to_tensor([0, 1, 0, 9])
    std = np.sqrt(2.0)
    np.testing.assert_allclose(group_normalized(scores, groups, eps=0.0).numpy(), [-1 / std, 5.0, 1 / std, 7.0])
    np.testing.assert_allclose(group_normalized(scores, groups, scale="none").numpy(), [-1.0, 5.0, 1.0, 7.0])
    np.testing.assert_allclose(leave_one_out(scores, groups).numpy(), [-2.0, 5.0, 2.0, 7.0])


def test_equal_scores_give_zero():
    scores, groups = paddle.ones([4]), paddle.to_tensor([0, 0, 1, 1])
    for advantages in (group_normalized(scores, groups), leave_one_out(scores, groups)):
        assert advantages.tolist() == [0.0] * 4


@pytest.mark.parametrize("size", [3, 7, 100])
@pytest.mark.parametrize("score", [0.1, 100.7, -3e4 / 7])
def test_equal_scores_in_float32_give_zero(score, size):
    """Their float32 mean is another number, and the difference over a deviation of as much is not small."""
    scores, ids = paddle.full([size], score), paddle.zeros([size], "int64")
    for advantages in (
        *(group_normalized(scores, ids, scale=scale, eps=1e-9) for scale in ("group", "batch", "none")),
        leave_one_out(scores, ids),
    ):
        assert advantages.dtype == paddle.float32
        assert not advantages.numpy().any()


@pytest.mark.parametrize("shift", [100.0, -3.0])
def test_group_advantages_ignore_a_common_shift(shift):
    scores = paddle.to_tensor(np.random.default_rng(0).standard_normal(6))
    groups = paddle.to_tensor([0, 0, 0, 1, 1, 1])
    for function in (group_normalized, leave_one_out):
        moved = function(scores + shift, groups).numpy()
        np.testing.assert_allclose(function(scores, groups).numpy(), moved, atol=1e-9)
