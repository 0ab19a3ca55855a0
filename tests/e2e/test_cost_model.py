"""Runs with a cost model: what they leave and report, that they go on bit for bit, and what they refuse."""

from __future__ import annotations

import json
import shutil

import pytest
import runs
from refusals import stop, train_here

pytestmark = pytest.mark.e2e

TENSORS = "model.safetensors"


@pytest.fixture(scope="module")
def arguments(ppo_arguments, rm_folder, tmp_path_factory):
    """A run whose cost model is the reward model under another type, so that reward and cost are at odds."""
    cost = tmp_path_factory.mktemp("cost") / "reward"
    shutil.copytree(rm_folder / "reward", cost)
    config = json.loads((cost / "config.json").read_text())
    config = {key: value for key, value in config.items() if not key.startswith(("normalizer", "score_normalizer"))}
    (cost / "config.json").write_text(json.dumps({**config, "score_type": "cost"}))
    made = {**ppo_arguments, "rl_algorithm": "ppo_lagrangian", "cost_model_name_or_path": cost}
    return {**made, "threshold": -1.0, "episode_cost_window_size": 12}


def test_both_critics_and_the_multiplier_go_on_bit_for_bit(arguments, tmp_path):
    made = {**arguments, "max_steps": 8, "save_strategy": "steps", "save_steps": 4, "save_total_limit": 2}
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    train_here("ppo", {**made, "output_dir": whole}, tmp_path)
    train_here("ppo", {**made, "output_dir": rest, "resume_from_checkpoint": whole / "checkpoint-4"}, tmp_path)
    state = json.loads((whole / "checkpoint-4" / "state.json").read_text())["multiplier"]
    assert len(state["costs"]) == 8 and state["log_value"] > 0
    for model in ("policy", "value", "cost_value"):
        assert (whole / model / TENSORS).read_bytes() == (rest / model / TENSORS).read_bytes(), model
    assert (whole / "value" / TENSORS).read_bytes() != (whole / "cost_value" / TENSORS).read_bytes()
    records = runs.computed(whole)
    assert runs.computed(rest) == [record for record in records if record["step"] > 4]
    assert records[-1]["train/lambda"] != records[0]["train/lambda"] != 1.0
    assert {"train/cost", "train/episode_cost", "cost_critic/loss", "cost_critic/gradient_norm"} <= set(records[-1])
    other = {key: made[key] for key in made if key not in ("threshold", "cost_model_name_or_path")}
    other = {**other, "rl_algorithm": "ppo", "output_dir": tmp_path / "other"}
    del other["episode_cost_window_size"]
    stop("ppo", {**other, "resume_from_checkpoint": whole / "checkpoint-4"}, tmp_path, "would drop its cost_value")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cost_model_name_or_path": None}, "missing required argument 'cost_model_name_or_path'"),
        ({"threshold": "nan"}, "threshold"),
        ({"threshold": "inf"}, "threshold"),
        ({"lambda_init": 6.0}, "lambda_init=6 exceeds lambda_max=5"),
        ({"normalize_cost": True}, "has no statistics of its scores"),
    ],
)
def test_arguments_that_contradict_each_other(changes, says, arguments, tmp_path):
    made = {key: value for key, value in {**arguments, **changes}.items() if value is not None}
    stop("ppo", {**made, "output_dir": tmp_path / "out"}, tmp_path, says)


def test_a_reward_model_is_no_cost_model_and_the_reverse(arguments, ppo_arguments, rm_folder, tmp_path):
    reward, cost = rm_folder / "reward", arguments["cost_model_name_or_path"]
    for changes, found, wanted in (
        ({"cost_model_name_or_path": reward}, "reward", "cost"),
        ({"reward_model_name_or_path": cost}, "cost", "reward"),
    ):
        made = {**arguments, **changes, "output_dir": tmp_path / "out"}
        stop("ppo", made, tmp_path, f"makes it a {found} model", f"here a {wanted} model is needed")
    made = {**ppo_arguments, "reward_model_name_or_path": cost, "output_dir": tmp_path / "out"}
    stop("ppo", made, tmp_path, "makes it a cost model", "here a reward model is needed")


def test_a_cost_critic_with_other_tokens_is_refused_before_anything_is_loaded(arguments, tmp_path):
    other = tmp_path / "other" / "reward"
    shutil.copytree(arguments["cost_model_name_or_path"], other)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"tent"', '"yurt"'))
    made = {**arguments, "cost_critic_model_name_or_path": other, "output_dir": tmp_path / "out"}
    advice = "Name a critic of the policy's family in cost_critic_model_name_or_path"
    stop("ppo", made, tmp_path, "the cost critic in", advice)
