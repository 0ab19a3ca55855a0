"""A run whose rewards never differ says so once; rewards that differ say nothing."""

import pytest

from alignment.loops import flat_rewards
from alignment.loops.flat_rewards import FlatRewards, what_is_flat
from alignment.metrics import Metric


def _rollout(lowest, highest, share=None):
    metrics = {"reward/min": Metric(lowest, "min"), "reward/max": Metric(highest, "max")}
    return metrics if share is None else metrics | {"reward/degenerate_share": Metric(share)}


SAME, OTHER = _rollout(0.5, 0.5), _rollout(0.5, 0.75)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(flat_rewards.log, "warn", lines.append)
    monkeypatch.setattr(flat_rewards.log, "is_main", lambda: True)
    return lines


def _observe(*rollouts):
    watch = FlatRewards()
    for metrics in rollouts:
        watch.observe(metrics)
    return watch


def test_the_third_rollout_in_a_row_is_told_once(said):
    _observe(*[SAME] * 9).warn()
    [line] = said
    assert line.startswith(
        "in each of the last 3 rollouts every response earned the same reward (0.5), so nothing is learned from the "
        "rewards. The reward does not tell responses apart"
    )


def test_a_short_run_is_told_at_its_end(said):
    watch = _observe(SAME)
    assert said == []
    watch.warn()
    assert said[0].startswith("in the last rollout every response earned the same reward (0.5)")


@pytest.mark.parametrize(
    "rollouts", [[SAME, SAME, OTHER] * 3, [OTHER], [{"sft/loss": Metric(0.0)}] * 9, [_rollout(0.0, 1.0, 0.875)] * 9]
)
def test_rewards_that_differ_are_not_warned_of(rollouts, said):
    _observe(*rollouts).warn()
    assert said == []


def test_groups_may_be_flat_where_rewards_are_not():
    assert what_is_flat(_rollout(0.0, 1.0, 1.0)) == "the responses to each prompt earned the same reward"
    assert what_is_flat(_rollout(0.0, 1.0)) == ""
