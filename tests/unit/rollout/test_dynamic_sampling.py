"""Dynamic sampling: which groups are kept, how rollouts are joined, and how it ends."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.errors import UserError
from alignment.records import Rollout
from alignment.rollout.dynamic_sampling import DynamicSampling, informative_rows, join_rollouts, take_rows


def _rollout(scores, *, lengths=None, valid=None, first=0):
    """Two responses to each prompt; response i is the token ``first`` + i, as often as its length."""
    rows = len(scores)
    lengths = lengths or [1] * rows
    grid = np.arange(rows, dtype=np.float32)[:, None] + first + np.zeros((rows, max(lengths)), np.float32)
    return Rollout(
        prompts=tuple(np.array([1]) for _ in range(rows)),
        responses=tuple(np.full(n, first + i) for i, n in enumerate(lengths)),
        finish_reasons=("stop",) * rows,
        group_ids=np.repeat(np.arange(rows // 2), 2),
        inputs=tuple(range(first, first + rows)),
        rollout_logprobs=grid,
        raw_scores=np.array(scores, np.float32),
        scores=np.array(scores, np.float32),
        source_scores={"one": np.array(scores, np.float32)},
        valid=valid if valid is None else np.array(valid),
    )


def test_groups_of_equal_scores_teach_nothing():
    assert informative_rows(_rollout([1, 1, 0, 1, 2, 3])).tolist() == [False, False, True, True, True, True]


def test_a_row_without_reward_makes_no_difference():
    valid = [True, False, True, True]
    assert informative_rows(_rollout([1, 5, 0, 1], valid=valid)).tolist() == [False, False, True, True]


def test_rows_keep_all_that_belongs_to_them_and_grids_are_cut():
    taken = take_rows(_rollout([1, 1, 0, 1], lengths=[5, 1, 2, 1]), np.array([2, 3]))
    assert taken.inputs == (2, 3) and taken.labels == () and taken.group_ids.tolist() == [1, 1]
    assert taken.rollout_logprobs.tolist() == [[2, 2], [3, 3]] and taken.response_width == 2
    assert taken.source_scores["one"].tolist() == [0, 1] and taken.old_logprobs is None


def test_joined_rollouts_have_groups_of_their_own_and_one_width():
    one, other = _rollout([1, 2]), _rollout([3, 4, 5, 6], lengths=[2] * 4, valid=[True] * 3 + [False], first=10)
    joined = join_rollouts([one, other])
    assert joined.group_ids.tolist() == [0, 0, 1, 1, 2, 2] and joined.inputs == (0, 1, 10, 11, 12, 13)
    assert joined.rollout_logprobs.tolist() == [[0, 0], [1, 0], [10, 10], [11, 11], [12, 12], [13, 13]]
    assert joined.valid.tolist() == [True] * 5 + [False] and joined.source_scores["one"].tolist() == [1, 2, 3, 4, 5, 6]


def _sample(max_batches, *scores):
    """Return what is made of rollouts with these scores, the metrics, and how many were used."""
    sampling = DynamicSampling(max_batches=max_batches)
    sampling.start(len(scores[0]) // 2)
    used = 0
    for number, part in enumerate(scores):
        used += 1
        if sampling.add(_rollout(part, first=10 * number)):
            break
    kept, metrics = sampling.finish()
    return kept, {name.removeprefix("rollout/"): m.value for name, m in metrics.items()}, used


def test_a_rollout_of_informative_groups_is_taken_as_it_is():
    kept, metrics, used = _sample(3, [0, 1, 2, 3], [4, 5, 6, 7])
    assert used == 1 and kept.inputs == (0, 1, 2, 3)
    assert metrics == {"gen_batches": 1, "sampled_groups": 2, "kept_groups": 2, "sampled_reward": 1.5}


def test_further_rollouts_replace_the_others_and_the_surplus_is_dropped():
    kept, metrics, used = _sample(3, [0, 0, 0, 1], [1, 2, 3, 4], [0, 1, 0, 1])
    assert used == 2 and kept.inputs == (2, 3, 10, 11) and kept.group_ids.tolist() == [1, 1, 2, 2]
    assert metrics == {"gen_batches": 2, "sampled_groups": 4, "kept_groups": 2, "sampled_reward": 11 / 8}


def test_at_the_bound_updates_are_made_from_what_there_is_with_one_warning(monkeypatch):
    said = []
    monkeypatch.setattr("alignment.rollout.dynamic_sampling.log.warn", said.append)
    kept, metrics, used = _sample(2, [0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 1])
    assert used == 2 and kept.inputs == (2, 3) and metrics["kept_groups"] == 1
    (line,) = said
    assert "after 2 rollouts (max_gen_batches) only 1 of 2 prompts have responses of different rewards" in line


def test_without_any_informative_group_the_run_ends_and_says_what_to_change():
    with pytest.raises(UserError) as error:
        _sample(2, [0, 0, 1, 1], [1, 1, 0, 0])
    said = str(error.value)
    assert "in 2 rollouts of 2 prompts (max_gen_batches=2) no prompt has responses of different rewards" in said
    assert "rewards: from 0 to 1" in said
    for advice in ("num_return_sequences=4", "max_gen_batches=8", "dynamic_sampling=false"):
        assert advice in said
