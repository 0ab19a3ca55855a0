"""The file of a loop: every shipped one is valid, and every problem of every stage is told at once, before any work."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from alignment.errors import ArgumentError
from alignment.rounds.plan import Planner
from alignment.rounds.reading.loop_arguments import GROUPS
from alignment.rounds.reading.recipe import read_recipe

SHIPPED = Path(__file__).parents[3] / "config" / "loops"
RAFT = {
    "output_dir": "out",
    "rounds": 2,
    "model_name_or_path": "org/model",
    "train_from": "previous",
    "prompts": "packing-prompts/train",
    "generate": {"K": 4, "max_dec_len": 8},
    "score": {"reward_sources": "org/reward"},
    "select": {"method": "best_of_n"},
    "train": {"trainer": "sft", "max_length": 64, "seed": 5},
}
DPO = {"select": {"method": "max_min"}, "train": {"trainer": "dpo", "max_length": 64}}


def read(folder, *words, **changes):
    path = folder / "loop.json"
    path.write_text(json.dumps({key: value for key, value in {**RAFT, **changes}.items() if value is not None}))
    return read_recipe([str(path), *words])


def problems(folder, *words, **changes):
    with pytest.raises(ArgumentError) as caught:
        read(folder, *words, **changes)
    return str(caught.value).split("\n  ")[1:]


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_loop_is_valid_and_its_steps_can_be_planned(path, tmp_path, monkeypatch):
    for name in ("output/demo/sft", "output/demo/rm"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "answers.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe([str(path)])
    if recipe.loop.rollout_batch_size:
        recipe = read_recipe([str(path), "--rollout_batch_size", "2"])
    prompts = [{"input": f"pack {number}"} for number in range(20)] if recipe.prompts.prompts else []
    steps = Planner(recipe, prompts, [{"input": "pack lamp"}], None).steps()
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    assert sum(step.stage == "train" for step in steps) == recipe.loop.rounds
    assert sum(step.stage == "judge" for step in steps) == recipe.loop.rounds + 1
    made: set = set()
    for step in steps:  # what a step reads inside the loop's folder, an earlier step made
        inside = {place for place in step.inputs.values() if place.is_relative_to(recipe.loop.output_dir)}
        assert inside <= made, step.name
        made |= set(step.outputs.values())


def test_problems_of_the_loop_and_of_all_stages_are_told_at_once(tmp_path):
    told = problems(
        tmp_path,
        rounds=0,
        generate={"K": 0, "tempreture": 1, "output_path": "x"},
        score={},
        select={"method": "rss"},
        train={"trainer": "sft", "learning_rte": 1, "pretrain": "x"},
        evaluate={"generate": {"max_dec_len": 8}},
    )
    assert len(told) == 9
    for words in (
        ("rounds: expected a value >= 1",),
        ("generate: K", ">= 1"),
        ("generate: unknown argument 'tempreture'", "'temperature'"),
        ("generate: output_path is filled in by the loop",),
        ("score: missing required argument 'reward_sources'",),
        ("select: method", "'rss'"),
        ("train: unknown argument 'learning_rte'",),
        ("train: pretrain is filled in by the loop",),
        ("evaluate: missing required argument 'score'",),
    ):
        assert any(all(word in line for word in words) for line in told), words


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (DPO, "missing argument 'reference': dpo has one"),
        ({"reference": "initial"}, "reference=initial: sft with these keys has none"),
        ({**DPO, "reference": "initial", "select": RAFT["select"]}, "makes single answers, and dpo trains on pairs"),
        ({"select": DPO["select"]}, "makes pairs, and sft trains on single answers"),
        ({"generate": {"K": 1}}, "K=1 of generate: select: best_of_n needs at least 2 responses"),
        ({"generate": None, "prompts": None, "score": {"reward_sources": "a/b", "answers_file": __file__}}, "rounds=2"),
        ({"prompts": None}, "missing required argument 'prompts'"),
        ({"train": {**RAFT["train"], "lora": True}}, "lora=true leaves an adapter"),
        ({"select": {"method": "csft"}}, "missing argument 'condition_reward'"),
        ({"condition_reward": 1.0}, "only select: conditional reads it"),
        ({"train": {"trainer": "ppo", "reward_model_name_or_path": "a/b"}}, "missing argument 'critic'"),
        ({"train": {"trainer": "grpo"}}, "unknown trainer 'grpo'"),
        ({**DPO, "train": {"trainer": "rm", "max_length": 64}}, "rm trains no policy"),
        ({"train": {**RAFT["train"], "num_processes": 2, "trainer": "pairwise"}}, "no script for the launcher"),
    ],
)
def test_choices_that_do_not_fit_are_refused(tmp_path, changes, told):
    assert any(told in line for line in problems(tmp_path, **changes))


def test_the_reference_of_ppo_is_the_model_that_it_starts_from(tmp_path):
    keys = {"reward_model_name_or_path": "a/b", "trainer": "ppo"}
    changes = {**dict.fromkeys(("generate", "score", "select")), "train": keys, "critic": "initial"}
    assert any(
        "must be that of train_from=previous" in line for line in problems(tmp_path, **changes, reference="initial")
    )
    assert read(tmp_path, **changes, reference="previous").train.has_critic


def test_the_command_line_reaches_the_keys_of_stages(tmp_path):
    recipe = read(tmp_path, "--rounds", "3", "--generate.K", "8", "--train.learning_rate=0.5")
    assert recipe.loop.rounds == 3
    assert recipe.generate.parsed.answers.num_return_sequences == 8
    assert recipe.train.keys.parsed.training.learning_rate == 0.5
    assert problems(tmp_path, "--trian.learning_rate", "1") == [
        "--trian.learning_rate: trian is no stage; did you mean 'train'? (generate, score, select, train, evaluate)"
    ]


def test_each_round_starts_from_the_chosen_models_with_a_seed_of_its_own(tmp_path):
    def trainings(**changes):
        recipe = read(tmp_path, rounds=3, **changes)
        steps = Planner(recipe, [{"input": str(number)} for number in range(9)], [], None).steps()
        return [step.work.arguments for step in steps if step.stage == "train"]

    def of_round(number):
        return str(Path.cwd() / "out" / f"round-{number}" / "train" / "policy")

    moving = trainings(**DPO, reference="previous")
    assert [run["model_name_or_path"] for run in moving] == ["org/model", of_round(1), of_round(2)]
    assert [run["ref_model_name_or_path"] for run in moving] == ["org/model", of_round(1), of_round(2)]
    fixed = trainings(**DPO, reference="initial")
    assert [run["model_name_or_path"] for run in fixed] == ["org/model", of_round(1), of_round(2)]
    assert {run["ref_model_name_or_path"] for run in fixed} == {"org/model"}
    anew = trainings(train_from="initial")
    assert {run["model_name_or_path"] for run in anew} == {"org/model"}
    assert [run["seed"] for run in anew] == [5, 6, 7]


def test_several_processes_are_started_by_the_launcher(tmp_path):
    recipe = read(tmp_path, train={**RAFT["train"], "num_processes": 2})
    steps = Planner(recipe, [{"input": "a"}, {"input": "b"}], [], None).steps()
    words = next(step for step in steps if step.stage == "train").work.words
    assert words[:3] == ["paddle.distributed.launch", "--nproc_per_node", "2"]
    assert words[-1].endswith("alignment/sft/run_sft.py") and Path(words[-1]).is_file()


def test_every_key_of_the_loop_has_a_use():
    """A key is read somewhere in the room."""
    code = "".join(path.read_text() for path in Path(sys.modules[Planner.__module__].__file__).parent.rglob("*.py"))
    for group in GROUPS.values():
        for name in group.__annotations__:
            assert f".{name}" in code or name in ("generate", "score", "select", "train", "evaluate"), name
