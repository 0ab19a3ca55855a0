"""A run whose rewards never differ says so once; rewards that differ say nothing."""

import pytest

from alignment.loops import flat_rewards
from alignment.loops.flat_rewards import FlatRewards
from alignment.metrics import Metric


def _rollout(lowest, highest, share=None):
    metrics = {"reward/min": Metric(lowest, "min"), "reward/max": Metric(highest, "max")}
    return metrics if share is None else metrics | {"reward/degenerate_share": Metric(share)}


SAME, OTHER = _rollout(0.5, 0.5), _rollout(0.5, 0.75)
EACH_ITS_OWN = [_rollout(float(number), float(number)) for number in range(20)]
"""One response in each rollout, without groups."""
ONE_PROMPT = [_rollout(float(number), float(number), 1.0) for number in range(20)]
"""One group in each rollout, of equal rewards."""


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(flat_rewards.log, "warn", lines.append)
    monkeypatch.setattr(flat_rewards.log, "is_main", lambda: True)
    return lines


def _observe(*rollouts, prompts=8):
    watch = FlatRewards(prompts=prompts)
    for metrics in rollouts:
        watch.observe(metrics)
    return watch


def test_the_third_rollout_in_a_row_is_told_once(said):
    _observe(*[SAME] * 9).finish()
    [line] = said
    assert line.startswith(
        "in each of the last 3 rollouts every response earned the same reward (0.5), so nothing is learned from the "
        "rewards. The reward does not tell responses apart"
    )


def test_a_short_run_is_told_at_its_end(said):
    watch = _observe(SAME)
    assert said == []
    watch.finish()
    assert said[0].startswith("in the last rollout every response earned the same reward (0.5)")


@pytest.mark.parametrize(
    "rollouts",
    [[SAME, SAME, OTHER] * 3, [OTHER], [{"sft/loss": Metric(0.0)}] * 9, [_rollout(0.0, 1.0, 0.875)] * 9, [OTHER, SAME]],
)
def test_rewards_that_differ_are_not_warned_of(rollouts, said):
    _observe(*rollouts).finish()
    assert said == []


def test_a_single_response_in_each_rollout_is_flat_only_if_its_reward_stays(said):
    for rollouts in (EACH_ITS_OWN, [SAME], [SAME] * 7):
        _observe(*rollouts, prompts=1).finish()
    assert said == []
    _observe(*[SAME] * 8, prompts=1).finish()
    assert said[0].startswith("in each of the last 8 rollouts every response earned the same reward (0.5)")


def test_a_single_prompt_in_each_rollout_needs_eight_of_them(said):
    for count in (1, 3, 7):
        _observe(*ONE_PROMPT[:count], prompts=1).finish()
    assert said == []
    _observe(*ONE_PROMPT, prompts=1).finish()
    assert said[0].startswith("in each of the last 8 rollouts the responses to each prompt earned the same reward, so")


@pytest.mark.parametrize(
    ("rollout", "what"),
    [
        (_rollout(0.0, 1.0, 1.0), "the responses to each prompt earned the same reward, so"),
        (_rollout(0.5, 0.5, 1.0), "every response earned the same reward (0.5), so"),
        (_rollout(0.5, 0.5, 0.0), "every response earned the same reward (0.5), so"),
    ],
    ids=["in each group", "in all groups", "apart from a KL penalty in the reward"],
)
def test_groups_may_be_flat_where_rewards_are_not(rollout, what, said):
    _observe(*[rollout] * 3)
    assert said[0].startswith(f"in each of the last 3 rollouts {what}")
