"""A rollout in hand is part of a checkpoint, with its bits, and is learned from where that can be done."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from alignment.errors import CheckpointError
from alignment.loops.rollout_ahead import RolloutAhead, Sampled
from alignment.records import Rollout


def test_a_rollout_in_hand_keeps_its_bits_as_json():
    rollout = Rollout(
        prompts=(np.array([1, 2]),) * 2, responses=(np.array([3]), np.array([4, 5])), finish_reasons=("stop", "length"),
        group_ids=np.array([0, 0]), inputs=("q", [{"role": "user", "content": "q"}]), labels=(None, "a"),
        rollout_logprobs=np.array([[-0.1, 0], [-1 / 3, -1e-30]], np.float32), policy_version=7,
    )  # fmt: skip
    ahead, other = RolloutAhead(is_on=True), RolloutAhead(is_on=True)
    for greedy in (None, rollout):
        other.needs_greedy = greedy is not None
        ahead.in_hand = Sampled(rollout, greedy, True)
        other.load_state(json.loads(json.dumps(ahead.state())))
        assert other.in_hand.epoch_ended and (other.in_hand.greedy is None) == (greedy is None)
        for read in other.in_hand.rollouts:
            for item in dataclasses.fields(Rollout):
                np.testing.assert_equal(getattr(read, item.name), getattr(rollout, item.name), item.name)
            assert read.rollout_logprobs.dtype == np.float32
    other.take()
    other.load_state(RolloutAhead().state())
    assert other.take() is None
    with pytest.raises(CheckpointError, match="give rollout_ahead=1"):
        RolloutAhead().load_state(ahead.state())
    other.needs_greedy = False
    other.load_state(ahead.state())
    assert other.take().greedy is None, "an algorithm that compares with none"
    other.needs_greedy, ahead.in_hand = True, Sampled(rollout, None, True)
    with pytest.raises(
        CheckpointError, match="without the greedy responses .* resume with the rl_algorithm that wrote it"
    ):
        other.load_state(ahead.state())
