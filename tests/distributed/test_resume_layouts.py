"""A run goes on in another layout as if nothing had happened, and in its own bit for bit."""

from __future__ import annotations

import random

import pytest

from alignment.parity.subjects import as_one_process, make_models
from alignment.telemetry.jsonl import read_json_lines
from tests.distributed import layout_runs as runs

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("resume")
    make_models(place)
    return place


@pytest.fixture(scope="module")
def unbroken(folder):
    return runs.train(folder, "unbroken", {**runs.LAYOUT, **runs.CHECKPOINTS, **runs.STABLE}, world_size=4)


@pytest.mark.parametrize(
    ("name", "layout", "world_size"),
    [
        ("one process", {}, 1),
        ("Sh2", {"sharding": "stage3", "sharding_parallel_degree": 2}, 2),
        ("TP2xPP2", {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2}, 4),
    ],
)
def test_resume_in_another_layout(name, layout, world_size, folder, unbroken):
    batch_ranks = world_size // (layout.get("tensor_parallel_degree", 1) * layout.get("pipeline_parallel_degree", 1))
    keys = {**runs.CHECKPOINTS, **runs.STABLE}
    alone = as_one_process(keys, batch_ranks=2 // batch_ranks, trainer="ppo")
    changes = {**alone, **layout, "resume_from_checkpoint": str(unbroken / "checkpoint-2")}
    resumed = runs.train(folder, f"resumed-{name.replace(' ', '-')}", changes, world_size=world_size)
    assert runs.largest_difference(runs.weights(unbroken), runs.weights(resumed)) < 1e-5
    expected = {record["step"]: record for record in read_json_lines(unbroken / "metrics.jsonl")}
    found = list(read_json_lines(resumed / "metrics.jsonl"))
    assert [record["step"] for record in found] == [3, 4, 5, 6]
    for record in found:
        for key in ("policy/loss", "critic/loss", "ptx/loss", "train/reward"):
            assert record[key] == pytest.approx(expected[record["step"]][key], abs=1e-5), (record["step"], key)


def test_a_reference_that_moves_and_losses_of_whole_updates_are_the_same_in_every_layout(folder):
    moving = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5, "nll_loss_coef": 0.5}
    names = ["sigmoid", "simpo", "bco_pair", "aot", "aot_unpaired", "kto_pair"]
    moving |= {"loss_type": names, "loss_weights": [1.0] * len(names)}
    keys = {**moving, **runs.CHECKPOINTS, "max_steps": 4, "logging_steps": 1, "learning_rate": 0.01}
    cut = {"sharding": "stage3", "sharding_parallel_degree": 2, "offload_level": "freeze_model"}
    alone = as_one_process(keys, batch_ranks=2, trainer="dpo")
    one = runs.train(folder, "moving", alone, world_size=1, trainer="dpo")
    two = runs.train(folder, "moving-Sh2", {**keys, **cut}, world_size=2, trainer="dpo")
    resumed = {**alone, "tensor_parallel_degree": 2, "resume_from_checkpoint": str(two / "checkpoint-2")}
    three = runs.train(folder, "moving-TP2", resumed, world_size=2, trainer="dpo")
    expected = {record["step"]: record for record in read_json_lines(one / "metrics.jsonl")}
    assert expected[4]["rewards/chosen"] != pytest.approx(0.0, abs=1e-3)
    for folder_, steps in ((two, [1, 2, 3, 4]), (three, [3, 4])):
        found = {record["step"]: record for record in read_json_lines(folder_ / "metrics.jsonl")}
        assert sorted(found) == steps
        for step, record in found.items():
            for key in ("dpo/loss", "dpo/loss/bco_pair", "dpo/loss/aot", "rewards/chosen", "rewards/rejected"):
                assert record[key] == pytest.approx(expected[step][key], abs=2e-5), (folder_, step, key)


@pytest.mark.parametrize("number", [3, pytest.param(10, marks=pytest.mark.rare)])
def test_kills_of_random_ranks_lose_nothing(number, folder, unbroken):
    choose, output = random.Random(5), f"killed-{number}"
    changes = {**runs.LAYOUT, **runs.CHECKPOINTS, **runs.STABLE, "resume_from_checkpoint": True, "save_steps": 1}
    kills = 0
    while kills < number:
        rank, after = choose.randrange(4), choose.uniform(1.0, 9.0)
        kills += runs.train_and_kill(folder, output, changes, world_size=4, rank=rank, after=after)
        if (folder / output / "policy").is_dir():
            assert runs.files(folder / output) == runs.files(unbroken)
            changes = {**changes, "resume_from_checkpoint": None, "overwrite_output_dir": True}
        else:
            changes = {**changes, "resume_from_checkpoint": True, "overwrite_output_dir": False}
    runs.train(
        folder,
        output,
        {**changes, "resume_from_checkpoint": True, "overwrite_output_dir": False},
        world_size=4,
    )
    assert runs.files(folder / output) == runs.files(unbroken)
