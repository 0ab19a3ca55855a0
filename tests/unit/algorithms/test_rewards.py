"""Reward shaping by hand."""

from __future__ import annotations

import paddle
import pytest

from alignment.algorithms.rewards import last_token_mask, shape_rewards

MASK = [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_last_token_mask():
    assert last_token_mask(paddle.to_tensor(MASK)).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("score", [[-2.0, 5.0 - 1.0, 0], [-5.0 + 1.0, 0, 0], [0, 0, 0]]),
        ("token", [[-2.0, 5.0, 0], [-5.0, 0, 0], [0, 0, 0]]),
    ],
)
def test_by_hand(placement, expected):
    rewards = shape_rewards(
        paddle.to_tensor([9.0, -8.0, 3.0]),
        paddle.to_tensor([[4.0, 2.0, 77.0], [-2.0, 77.0, 77.0], [77.0, 77.0, 77.0]]),
        mask=paddle.to_tensor(MASK),
        kl_coeff=0.5,
        clip_range_score=5.0,
        clip_placement=placement,
    )
    assert rewards.tolist() == expected


def test_without_clip():
    kl = paddle.zeros([3, 3])
    rewards = shape_rewards(
        paddle.to_tensor([900.0, 1.0, 1.0]), kl, mask=paddle.to_tensor(MASK), kl_coeff=0.5, clip_range_score=None
    )
    assert float(rewards[0, 1]) == 900.0


def test_garbage_under_the_mask_changes_nothing(grid, mask, spoil, same):
    options = {"mask": mask, "kl_coeff": 0.1, "clip_range_score": 1.0, "clip_placement": "token"}
    kl, scores = grid(0), grid(1)[:, 0]
    same(shape_rewards(scores, spoil(kl), **options), shape_rewards(scores, kl, **options))
