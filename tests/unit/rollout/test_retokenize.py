"""Rollouts as a reward model reads them: one end for all, and padding that is no text."""

from __future__ import annotations

import numpy as np

from alignment.records import Rollout
from alignment.rollout.rewards.retokenize import BeforePadding, SameTokens


def rollout(*responses):
    n = len(responses)
    return Rollout(
        prompts=(np.array([5, 6]),) * n,
        responses=tuple(np.array(r) for r in responses),
        finish_reasons=("stop",) * n,
        group_ids=np.arange(n),
    )


def test_another_end_becomes_the_one_that_the_reward_model_knows():
    given = rollout([8, 2], [8, 7], [8, 7, 9], [7, 2])
    rows = SameTokens((2, 7), 2)(given)
    assert [row.tolist() for row in rows] == [[5, 6, 8, 2], [5, 6, 8, 2], [5, 6, 8, 7, 9], [5, 6, 7, 2]]
    assert given.responses[1].tolist() == [8, 7], "the rollout keeps what the policy wrote"


def test_padding_is_cut_at_the_end_only():
    rows = BeforePadding(SameTokens(), 2)(rollout([8, 2], [2, 8, 2, 2], [9]))
    assert [row.tolist() for row in rows] == [[5, 6, 8], [5, 6, 2, 8], [5, 6, 9]]
