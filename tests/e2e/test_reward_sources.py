"""Several reward sources in one run: each is logged alone, adds up with its weight, and resumes bit for bit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import runs
from refusals import refuse, train_here

pytestmark = pytest.mark.e2e

FUNCTIONS = """
def length(prompts, responses, labels, scale=1.0):
    return [scale * len(response) for response in responses]
"""


@pytest.fixture
def arguments(ppo_arguments, tmp_path):
    """Arguments of a PPO run with a reward model and a function."""
    (tmp_path / "rewards.py").write_text(FUNCTIONS)
    made = {key: value for key, value in ppo_arguments.items() if key != "reward_model_name_or_path"}
    model = str(ppo_arguments["reward_model_name_or_path"])
    sources = [
        {"name": model, "weight": 2, "log_as": "model", "normalize": True, "batch_size": 3},
        {"name": "rewards.py:length", "weight": -0.125, "options": {"scale": 4}, "normalize": True},
    ]
    made |= {"reward_sources": sources, "max_steps": 16, "save_strategy": "steps", "save_steps": 8, "logging_steps": 1}
    return {**made, "output_dir": tmp_path / "straight"}


def test_a_resumed_run_continues_the_statistics_of_each_source(arguments, tmp_path):
    made = {**arguments, "eval_datasets": "packing-prompts/test:8/-1", "do_eval": True}
    train_here("ppo", made, tmp_path)
    records = runs.metrics(tmp_path / "straight")
    training = [record for record in records if "train/reward" in record]
    for record in training:
        parts = 2 * record["reward/model_mean"] - 0.125 * record["reward/length_mean"]
        assert record["train/reward"] == pytest.approx(parts, abs=1e-5)
        assert record["reward/length_failed_share"] == 0
    assert np.std([record["reward/model_mean"] for record in training]) > 0
    evaluation = records[-1]
    by_hand = 2 * evaluation["eval/reward/model_mean"] - 0.125 * evaluation["eval/reward/length_mean"]
    assert evaluation["eval/reward"] == pytest.approx(by_hand, abs=1e-5), "evaluation does not normalise"
    again = {**made, "output_dir": tmp_path / "again", "resume_from_checkpoint": tmp_path / "straight/checkpoint-8"}
    train_here("ppo", again, tmp_path)
    for name in ("policy", "value"):
        path = f"{name}/model.safetensors"
        assert (tmp_path / "again" / path).read_bytes() == (tmp_path / "straight" / path).read_bytes()
    counted = [
        json.loads((tmp_path / f"straight/checkpoint-{step}/state.json").read_text())["reward_normalizer"]["length"][2]
        for step in (8, 16)
    ]
    assert counted[1] == 2 * counted[0] > 0, "the running statistics are in the checkpoint"


def test_a_cost_model_is_subtracted_only_by_name(arguments, ppo_arguments, tmp_path):
    model = ppo_arguments["reward_model_name_or_path"]
    shutil.copytree(model, tmp_path / "cost")
    config = json.loads((tmp_path / "cost/config.json").read_text()) | {"score_type": "cost"}
    (tmp_path / "cost/config.json").write_text(json.dumps(config))
    made = {**arguments, "max_steps": 1, "save_strategy": "no"}
    made |= {"reward_critic_model_name_or_path": model}
    refuse("ppo", {**made, "reward_sources": ["cost"]}, tmp_path, "is a cost model", '"kind": "cost"')
    written = [{"name": "cost", "kind": "cost", "weight": 3}]
    train_here("ppo", {**made, "reward_sources": written}, tmp_path)
    first = runs.metrics(tmp_path / "straight")[0]
    assert first["train/reward"] == pytest.approx(-3 * first["reward/cost_mean"], rel=1e-5)
