"""The score models among several reward sources, as the plan reads them."""

import json

from alignment.planner.job import read_job
from alignment.trainers.ppo.arguments import parse_ppo_arguments
from tests.unit.planner.jobs import SHAPE


def write(folder, **changes):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**SHAPE, **changes}))
    return str(folder)


def test_models_are_read_from_folders_and_from_runs_and_functions_cost_nothing(tmp_path):
    write(tmp_path / "run" / "reward", hidden_size=32)
    sources = [
        {"name": write(tmp_path / "helpful"), "batch_size": 3},
        {"name": str(tmp_path / "run"), "kind": "cost"},
        "json:loads",
    ]
    parsed = parse_ppo_arguments(
        {
            "train_datasets": "packing-prompts/train",
            "actor_model_name_or_path": write(tmp_path / "policy"),
            "reward_sources": sources,
            "output_dir": str(tmp_path / "out"),
        }
    )
    job = read_job(parsed, device="cpu")
    assert {role: config.hidden_size for role, config in job.other_rewards.items()} == {
        "reward-helpful": 64,
        "reward-run": 32,
    }
    assert job.source_rows == {"reward-helpful": 3} and job.reward is None
    assert job.critic.hidden_size == 64, "it starts from the first model that is no cost"
