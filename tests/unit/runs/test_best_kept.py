"""Which evaluation is the best one of a run that ends where its reward is hacked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from alignment.loops.hacking.alarm import HackingAlarm
from alignment.runs.on_policy.hacking import build_best_kept
from alignment.trainers.ppo.arguments import parse_ppo_arguments

FILES = {"train_datasets": "p", "eval_datasets": "p", "actor_model_name_or_path": "a", "output_dir": "o"}
KEYS = {**FILES, "reward_model_name_or_path": "r", "evaluation_strategy": "steps", "on_reward_hacking": "stop_at_best"}


@pytest.mark.parametrize(
    ("keys", "judges", "metric"),
    [
        ({}, (), "eval/reward"),
        ({}, ("truth", "other"), "eval/truth"),
        ({"eval_greedy": True}, ("truth", "other"), "eval/greedy_truth"),
        ({"eval_greedy": True, "metric_for_best_model": "truth"}, ("truth", "other"), "eval/truth"),
        ({"eval_greedy": True, "eval_do_sample": False}, ("truth",), "eval/truth"),
        ({"eval_greedy": True}, (), "eval/reward"),
    ],
)
def test_the_metric_that_decides(keys, judges, metric):
    launch = SimpleNamespace(parsed=parse_ppo_arguments({**KEYS, **keys}))
    best = build_best_kept(launch, HackingAlarm(stops=True, judges=judges), keep=lambda: None)
    assert (best.metric, best.greater_is_better) == (metric, True)
