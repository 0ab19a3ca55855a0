"""The models among several reward sources, as the plan reads them."""

import json
from types import SimpleNamespace

import pytest

from alignment.architecture.layout import Layout
from alignment.planner.duration import forward_seconds
from alignment.planner.memory import phase_memory
from alignment.planner.models import place_models
from alignment.planner.on_policy_job import read_job
from alignment.trainers.ppo.arguments import parse_ppo_arguments
from tests.unit.planner.jobs import SHAPE, make_job


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


def test_a_model_that_compares_reads_two_responses_for_each_ordered_pair(tmp_path):
    recorded = {"pairwise_comparison": {"turn": "{content}"}}
    sources = [
        {"name": write(tmp_path / "plain"), "kind": "pairwise"},
        write(tmp_path / "scores"),
        write(tmp_path / "recorded" / "reward", **recorded).removesuffix("/reward"),
    ]
    given = {
        "train_datasets": "packing-prompts/train",
        "actor_model_name_or_path": write(tmp_path / "policy"),
        "output_dir": str(tmp_path / "out"),
        "rl_algorithm": "grpo",
        "num_return_sequences": 4,
        "max_length": 64,
        "max_dec_len": 16,
        "share_prefixes": False,
    }
    job = read_job(parse_ppo_arguments({**given, "reward_sources": sources}), device="cpu")
    assert job.pairwise == {"reward-plain", "reward-recorded"} and job.group_size == 4
    assert job.length_of("reward-plain") == 80 and job.length_of("reward-scores") == job.length_of("policy") == 64
    machine, seconds = SimpleNamespace(flops=1.0), {}
    for role in job.other_rewards:
        seconds[role] = forward_seconds(job, Layout(), machine, role)
    head = 2 * 3 * 80 * job.iteration_rows * SHAPE["vocab_size"] * SHAPE["hidden_size"]
    assert seconds["reward-plain"] == pytest.approx(3 * 80 / 64 * seconds["reward-scores"] + head)
    models = place_models(job, Layout(), 0)
    assert models["reward-plain"].weights == models["policy"].weights > models["reward-scores"].weights
    held = {phase: moment.by_name for phase, moment in phase_memory(job, Layout(), lambda m: m.on_device).items()}
    assert held["update"]["reward weights"] == 2 * models["policy"].weights + models["reward-scores"].weights

    alone = {**given, "reward_model_name_or_path": str(tmp_path / "recorded")}
    job = read_job(parse_ppo_arguments(alone), device="cpu")
    assert job.pairwise == {"reward"} and job.models["reward"] == job.policy


def test_the_head_of_a_frozen_model_that_compares_stays_gathered_in_stage_3(tmp_path):
    layout = Layout(sharding=2, sharding_stage=3)
    heads = []
    for pairwise in (frozenset(), frozenset({"reward"})):
        job = make_job(pairwise=pairwise, group_size=2)
        update = phase_memory(job, layout, lambda moment: moment.on_device)["update"]
        heads.append(update.device["gathered weights"])
    assert heads[1] - heads[0] == SHAPE["vocab_size"] * SHAPE["hidden_size"] * 4
