"""Names of second judges: none may replace a metric of an evaluation or a column of its samples."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from alignment.errors import ArgumentError
from alignment.loops.evaluation import sample_rows
from alignment.trainers.ppo.arguments import parse_ppo_arguments

FILE = {"train_datasets": "p", "actor_model_name_or_path": "a", "reward_model_name_or_path": "r", "output_dir": "o"}
ROLLOUT = SimpleNamespace(
    inputs=["q"],
    responses=[np.array([1])],
    raw_scores=np.array([0.5]),
    valid_rows=np.array([True]),
    finish_reasons=["stop"],
)
OF_THE_FILE = ("step", "source")
"""Every line of samples.jsonl has its update; those of training have a source, by which a resumed run tells them from
the evaluations that it repeats.
"""
COLUMNS = sample_rows(ROLLOUT, lambda tokens: "a")[0]


def test_the_columns_of_samples():
    assert COLUMNS == {"prompt": "q", "response": "a", "score": 0.5, "finish_reason": "stop"}


METRICS = ("reward", "kl_divergence", "truth_std", "truth_failed_share", "greedy_truth")


@pytest.mark.parametrize("name", [*COLUMNS, *OF_THE_FILE, *METRICS])
def test_a_judge_named_as_a_metric_or_column_is_refused_with_a_name_that_works(name, tmp_path):
    (tmp_path / "checks.py").write_text(f"def {name}(prompts, responses, labels):\n    return [0.0] * len(prompts)\n")
    source = f"{tmp_path / 'checks.py'}:{name}"
    keys = {**FILE, "evaluation_strategy": "steps", "eval_datasets": "e"}
    with pytest.raises(ArgumentError) as error:
        parse_ppo_arguments({**keys, "eval_reward": [source]})
    (said,) = str(error.value).split("\n  ")[1:]
    assert f"would be reported as eval/{name}, the name of another metric or column of the samples: give " in said
    other = json.loads(said.partition("give ")[2])
    assert other == {"name": source, "log_as": f"second_{name.removesuffix('_std').removesuffix('_failed_share')}"}
    assert parse_ppo_arguments({**keys, "eval_reward": [other]}).on_policy


@pytest.mark.parametrize("metric", ["greedy_reward", "eval_greedy_truth"])
def test_a_greedy_metric_that_decides_without_greedy_answers_is_refused_before_models_are_loaded(metric):
    held_out = {"evaluation_strategy": "steps", "eval_datasets": "e", "save_strategy": "steps"}
    keys = {**FILE, **held_out, "metric_for_best_model": metric, "load_best_model_at_end": True}
    without = {"load_best_model_at_end": False, "early_stopping": True}
    for other in ({}, {"eval_greedy": True, "eval_do_sample": False}, without):
        with pytest.raises(ArgumentError, match=f"={metric} is a score of greedy answers .* give eval_greedy=true and"):
            parse_ppo_arguments({**keys, **other})
    assert parse_ppo_arguments({**keys, "eval_greedy": True}).generation.eval_greedy
    assert parse_ppo_arguments({**keys, "load_best_model_at_end": False}), "nothing is decided"
