"""A group whose reward failed leaves no trace in rewards, KL and statistics."""

from dataclasses import replace

import numpy as np
import pytest

from alignment.records import Experience, Rollout
from alignment.rollout.judge import Judge
from alignment.rollout.metrics import describe_experience, kl_by_row
from alignment.rollout.rewards.reward_normalization import RunningRewardNormalizer
from alignment.rollout.rewards.scorers import Scores

EXPECTED = {
    "train/reward": 3.0,
    "train/norm_reward": 3.0,
    "train/norm_reward_with_kl": (1.9 + 4.1) / 2,
    "train/kl_reward": (-0.5 + 0.25) / 2,
    "reward/std": 1.0,
    "reward/min": 2.0,
    "reward/max": 4.0,
    "reward/length_correlation": -1.0,
    "train/max_generated_length": 2.0,
    "train/min_generated_length": 1.0,
    "rollout/prompt_length": 2.0,
    "policy/advantage_mean": (0.5 + 1.0 - 1.0) / 3,
    "policy/advantage_std": ((0.25 + 1 + 1) / 3 - 1 / 36) ** 0.5,
    "policy/entropy": (0.5 + 0.25 + 1.0) / 3,
    "train/kl_divergence": 0.0,
    "train/values": (1.0 + 2.0 + 0.5) / 3,
    "train/returns": (1.5 + 3.0 - 0.5) / 3,
    "critic/explained_variance": 1 - (0.75 - 1 / 36) / (11.5 / 3 - 16 / 9),
}
"""Worked out by hand for rows 0 and 2."""


def _grid(*rows):
    return np.array(rows, np.float32)


def _experience(rows):
    """The valid rows 0 and 2, and, where asked for, a masked row 1 that holds garbage."""
    old = _grid([-1.0, -2.0], [-7.0, -9.0], [-1.5, 0.0])[rows]
    rollout = Rollout(
        prompts=tuple(np.array([1, 2]) for _ in rows),
        responses=tuple(np.array([[3, 2], [4, 4], [2]][i], object).astype(np.int64) for i in rows),
        finish_reasons=tuple(["stop", "length", "stop"][i] for i in rows),
        group_ids=np.array(rows),
        old_logprobs=old,
        ref_logprobs=_grid([-1.5, -2.0], [0.0, 0.0], [-1.0, 0.0])[rows],
        entropy=_grid([0.5, 0.25], [99.0, 99.0], [1.0, 0.0])[rows],
        values=_grid([1.0, 2.0], [50.0, 50.0], [0.5, 0.0])[rows],
        raw_scores=_grid(2.0, 0.0, 4.0)[rows],
        scores=_grid(2.0, 0.0, 4.0)[rows],
        valid=np.array([True, False, True])[rows],
    )
    return Experience(
        rollout=rollout,
        advantages=_grid([0.5, 1.0], [0.0, 0.0], [-1.0, 0.0])[rows],
        returns=_grid([1.5, 3.0], [0.0, 0.0], [-0.5, 0.0])[rows],
        rewards=_grid([-0.1, 2.0], [0.0, 0.0], [4.1, 0.0])[rows],
    )


def test_a_masked_row_changes_no_average():
    whole, masked = (describe_experience(_experience(rows)) for rows in ([0, 2], [0, 1, 2]))
    of_all_rows = {"train/mean_generated_length", "rollout/eos_rate", "reward/masked_rows"}
    for name in whole.keys() - of_all_rows:
        assert masked[name].value == pytest.approx(whole[name].value), name
        assert masked[name].reduction == whole[name].reduction
    assert masked["reward/masked_rows"].value == 1
    assert masked["train/kl_divergence"].value == pytest.approx((0.5 - 0.5) / 2)
    assert masked["kl/k2"].value == pytest.approx((0.125 + 0 + 0.125) / 3)
    np.testing.assert_allclose(kl_by_row(_experience([0, 1, 2]).rollout), [0.5, -0.5])


@pytest.mark.parametrize("rows", [[0, 2], [0, 1, 2]])
def test_the_numbers_of_two_valid_rows(rows):
    experience = replace(_experience(rows), kl_rewards=_grid([-0.5, 0.0], [9.0, 9.0], [0.25, 0.0])[rows])
    seen = {name: metric.value for name, metric in describe_experience(experience).items()}
    assert {name: seen[name] for name in EXPECTED} == {
        name: pytest.approx(value, rel=1e-5) for name, value in EXPECTED.items()
    }
    masked = len(rows) == 3
    assert seen["reward/masked_rows"] == masked
    assert seen["train/mean_generated_length"] == pytest.approx(5 / 3 if masked else 1.5)
    assert seen["rollout/eos_rate"] == pytest.approx(2 / 3 if masked else 1.0)


def test_extremes_are_taken_over_processes_as_extremes_and_the_rest_as_means():
    metrics = describe_experience(_experience([0, 2]))
    assert {name: metric.reduction for name, metric in metrics.items() if metric.reduction in ("min", "max")} == {
        "reward/min": "min",
        "reward/max": "max",
        "train/max_generated_length": "max",
        "train/min_generated_length": "min",
    }


def test_reward_statistics_learn_from_valid_rows_only():
    normalizer, expected = RunningRewardNormalizer(), RunningRewardNormalizer()
    judge = Judge(
        policy=None,
        reference=None,
        critic=None,
        scorer=None,
        normalize=normalizer,
        logprob_rows=1,
        value_rows=1,
        temperature=1.0,
    )
    values = np.array([3.0, 0.0, 5.0], np.float32)
    normalized = judge._normalized(Scores(values, np.array([True, False, True])))
    np.testing.assert_array_equal(normalized[[0, 2]], expected(values[[0, 2]]))
    assert normalized[1] == 0
    assert normalizer.state() == expected.state()


def test_rewards_too_large_for_their_deviation_are_infinite_without_a_word_of_numpys():
    experience = _experience([0, 2])
    raw = _grid(-3e38, 3e38)
    metrics = describe_experience(replace(experience, rollout=experience.rollout.with_fields(raw_scores=raw)))
    assert metrics["reward/std"].value == np.inf and metrics["reward/max"].value == pytest.approx(3e38)


def test_the_kl_on_tokens_that_an_older_policy_drew_is_that_of_the_policy():
    """Two tokens, each drawn once by an older policy that was the reference (1/2, 1/2); the policy is at (4/5, 1/5).

    Unweighted, the KL would be -0.22: minus the one of the older policy to the policy.
    """
    policy, reference = np.log(_grid([0.8], [0.2])), np.log(_grid([0.5], [0.5]))
    rollout = Rollout(
        prompts=(np.array([1]),) * 2,
        responses=(np.array([0]), np.array([1])),
        finish_reasons=("length",) * 2,
        group_ids=np.arange(2),
        old_logprobs=policy,
        ref_logprobs=reference,
        entropy=_grid([0.5], [0.5]),
        raw_scores=_grid(1.0, 1.0),
        scores=_grid(1.0, 1.0),
        importance_weights=np.exp(policy - reference),
    )
    one = _grid([1.0], [1.0])
    metrics = describe_experience(Experience(rollout=rollout, advantages=one, returns=one, rewards=one))
    kl = 0.8 * np.log(1.6) + 0.2 * np.log(0.4)
    for name in ("train/kl_divergence", "kl/k1", "kl/k3"):
        assert metrics[name].value == pytest.approx(kl, rel=1e-5), name
    assert metrics["kl/k2"].value == pytest.approx((0.8 * np.log(1.6) ** 2 + 0.2 * np.log(0.4) ** 2) / 2, rel=1e-5)
    np.testing.assert_allclose(kl_by_row(rollout), [1.6 * np.log(1.6), 0.4 * np.log(0.4)], rtol=1e-5)


def test_the_weights_of_a_masked_group_and_of_padding_add_nothing_to_the_kl():
    experience = _experience([0, 1, 2])
    weights = _grid([2.0, 1.0], [0.0, 0.0], [0.5, 0.0])
    weighted = replace(experience, rollout=experience.rollout.with_fields(importance_weights=weights))
    assert describe_experience(weighted)["train/kl_divergence"].value == pytest.approx((2 * 0.5 - 0.5 * 0.5) / 2)
    assert describe_experience(weighted)["kl/k1"].value == pytest.approx((2 * 0.5 - 0.5 * 0.5) / 3)
