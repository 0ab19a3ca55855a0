"""The alarm and the second judges see the same run in every layout, also after a resume in another one."""

from __future__ import annotations

import json

import pytest

from alignment.parity.subjects import as_one_process, make_models
from alignment.telemetry.jsonl import read_json_lines
from tests.distributed import layout_runs as runs

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SOURCES = """
def words(inputs, responses, labels):
    return [float(len(set(response.split()))) for response in responses]


def against(inputs, responses, labels):
    return [-score for score in words(inputs, responses, labels)]
"""
UPDATES, RESUMED = 12, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("hacking")
    make_models(place)
    (place / "sources.py").write_text(SOURCES)
    return place


@pytest.fixture(scope="module")
def keys(folder):
    """GRPO with a reward that its judge contradicts."""
    return {
        "rl_algorithm": "grpo",
        "reward_model_name_or_path": None,
        "reward_function": f"{folder / 'sources.py'}:words",
        "eval_reward": f"{folder / 'sources.py'}:against",
        "eval_datasets": "packing-prompts/test:16/-1",
        "evaluation_strategy": "steps",
        "eval_steps": 2,
        "eval_greedy": True,
        "per_device_eval_batch_size": 16,
        "per_device_prompt_batch_size": 4,
        "num_return_sequences": 4,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "max_steps": UPDATES,
        "save_strategy": "steps",
        "save_steps": RESUMED,
        "learning_rate": 0.02,
        "lr_scheduler_type": "constant",
        "kl_loss_coeff": 0.001,
        "on_reward_hacking": "lower_lr",
    }


@pytest.fixture(scope="module")
def alone(folder, keys):
    """What one process told and logged."""
    return _told(runs.train(folder, "one", as_one_process(keys, batch_ranks=2, trainer="ppo"), world_size=1))


def _told(output):
    """Return the findings, and by step what evaluations and the alarm logged.

    The last update is left out: at this learning rate, sums in another order draw another token by then.
    """
    kept = ("eval/reward", "eval/against", "hacking/gain", "hacking/kinds", "policy/learning_rate")
    kept += ("eval/greedy_reward", "eval/greedy_against")
    logged = {}
    for record in read_json_lines(output / "metrics.jsonl"):
        logged.setdefault(record["step"], {}).update({key: record[key] for key in kept if key in record})
    del logged[UPDATES]
    return json.loads((output / "hacking.json").read_text()), logged


def _assert_told_alike(found, alone, *, after):
    findings, logged = found
    assert findings == alone[0]
    assert logged == {step: pytest.approx(row, abs=1e-5) for step, row in alone[1].items() if step > after}


def test_the_alarm_tells_and_does_the_same_in_every_layout_and_after_a_change_of_it(folder, keys, alone):
    (found,), logged = alone
    assert (found["kind"], found["step"]) == ("judge", 10) and RESUMED < found["step"] < UPDATES
    assert logged[11]["policy/learning_rate"] == pytest.approx(logged[10]["policy/learning_rate"] / 2)
    sharded = runs.train(folder, "Sh2", {**keys, "sharding": "stage1", "sharding_parallel_degree": 2}, world_size=2)
    _assert_told_alike(_told(sharded), alone, after=-1)
    cut = {**as_one_process(keys, batch_ranks=2, trainer="ppo"), "tensor_parallel_degree": 2}
    cut |= {"resume_from_checkpoint": str(sharded / f"checkpoint-{RESUMED}")}
    _assert_told_alike(_told(runs.train(folder, "TP2", cut, world_size=2)), alone, after=RESUMED)
