"""``alignment loop`` on tiny models: interrupted anywhere it ends with the same files, and it says what it repeats."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import runs

from alignment.errors import ArgumentError, ProcessError
from alignment.parity.subjects import make_models
from alignment.rounds.processes.children import Children
from alignment.rounds.reading.recipe import read_recipe
from alignment.rounds.run import run_loop
from alignment.rounds.status import print_status

pytestmark = pytest.mark.e2e
OF_A_START = {"logs", "runs", "times.jsonl", "digests.json", "run.log", ".lock", "running.json"}
JUDGES = """
from alignment.data.sources.packing import true_score as score_of


def true_score(prompts, responses, labels):
    return [score_of(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def broken(prompts, responses, labels):
    return [float("nan")] * len(prompts)
"""
HOLD = """
import fcntl, sys, time

file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""
LOOP = {
    "output_dir": "out",
    "rounds": 2,
    "model_name_or_path": "actor",
    "train_from": "previous",
    "reference": "previous",
    "prompts": "packing-prompts/train:9/-1",
    "generate": {"K": 4, "max_dec_len": 8, "per_device_rollout_batch_size": 8, "device": "cpu"},
    "score": {"reward_sources": "judges.py:true_score", "answers_per_unit": 8, "device": "cpu"},
    "select": {"method": "max_min"},
    "train": {
        "trainer": "dpo",
        "chat_template": "tokenizer",
        "max_length": 64,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "save_steps": 1,
        "save_total_limit": 1,
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "device": "cpu",
        "seed": 3,
    },
    "evaluate": {
        "prompts": "packing-prompts/test:6/-1",
        "generate": {"max_dec_len": 8, "device": "cpu"},
        "score": {
            "reward_sources": [{"name": "reward"}, {"name": "judges.py:true_score", "weight": 0}],
            "device": "cpu",
        },
    },
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with models, a judge and the file of the loop."""
    folder = tmp_path_factory.mktemp("loop")
    make_models(folder)
    (folder / "judges.py").write_text(JUDGES)
    (folder / "loop.json").write_text(json.dumps(LOOP))
    return folder


def start(workshop, output, *words):
    command = [sys.executable, "-m", "alignment", "loop", str(workshop / "loop.json"), "--output_dir", str(output)]
    environment = {**runs.environment(), "PYTHONPATH": str(runs.ROOT)}
    return subprocess.Popen(
        [*command, *words], cwd=workshop, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(workshop, output, *words):
    """Run the loop in this process; its stages are processes of their own."""
    os.environ["PYTHONPATH"] = str(runs.ROOT)
    return run_loop(read_recipe([str(workshop / "loop.json"), "--output_dir", str(output), *words]))


def files(output: Path) -> dict[str, bytes]:
    """Return what a loop made, by name: everything but logs and times, and of trainings the models."""
    found = {}
    for path in sorted(output.rglob("*")):
        parts = path.relative_to(output).parts
        if path.is_file() and OF_A_START.isdisjoint(parts) and not ("train" in parts and "policy" not in parts):
            found["/".join(parts)] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def unbroken(workshop):
    """The folder of a loop that nothing interrupted."""
    output = workshop / "unbroken" / "out"
    run(workshop, output)
    return output


def kill_and_continue(workshop, output, kills, seconds, seed):
    """Kill a loop ``kills`` times at random moments of ``seconds`` and let it end; return what the last start said."""
    generator = random.Random(seed)
    while kills:
        process = start(workshop, output)
        try:
            said = process.communicate(timeout=generator.uniform(0, seconds))[0]
            assert process.returncode == 0, said
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills -= 1
    process = start(workshop, output)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    return said


def test_rounds_are_made_judged_and_reported(unbroken):
    names = files(unbroken)
    shares = [json.loads(line)["input"] for n in (1, 2) for line in names[f"round-{n}/prompts.jsonl"].splitlines()]
    assert len(shares) == 9 and len(names[f"round-{2}/prompts.jsonl"].splitlines()) == 5, "the remainder is used"
    records = [json.loads(line) for line in names["metrics.jsonl"].splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2]
    for record in records:
        assert {"eval/reward", "eval/greedy_reward", "eval/true_score", "eval/greedy_true_score"} <= record.keys()
    assert records[1]["loop/chosen_rows"] + records[1]["loop/dropped_prompts"] == records[1]["loop/prompts"]
    weights = [names[f"round-{number}/train/policy/model.safetensors"] for number in (1, 2)]
    assert weights[0] != weights[1]
    page = names["report.html"].decode()
    assert "Rounds" in page and "eval/greedy_true_score" in page


def test_a_loop_that_is_killed_ends_with_the_same_files(workshop, unbroken, tmp_path):
    output = tmp_path / "out"
    kill_and_continue(workshop, output, kills=3, seconds=25, seed=1)
    found, expected = files(output), files(unbroken)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_what_a_kill_left_half_written_is_removed(workshop, unbroken, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(unbroken, output)
    for name in (".state.json.7.part", "round-1/.chosen.jsonl.7.part"):
        (output / name).write_text("half")
    run(workshop, output)
    assert files(output) == files(unbroken)


@pytest.mark.rare
def test_ten_kills_at_random_moments(workshop, unbroken, tmp_path):
    output = tmp_path / "out"
    kill_and_continue(workshop, output, kills=10, seconds=float(os.environ.get("ALIGNMENT_KILL_SECONDS", "30")), seed=2)
    assert files(output) == files(unbroken)


def test_only_what_changed_is_done_again_and_it_is_said_why(workshop, unbroken, tmp_path, capsys):
    output = tmp_path / "out"
    shutil.copytree(unbroken, output)
    state = (output / "state.json").read_bytes()
    run(workshop, output)
    assert (output / "state.json").read_bytes() == state
    assert "done again" not in (output / "run.log").read_text()
    print_status(output)
    assert "all 23 steps are done" in capsys.readouterr().out.replace("\n", " ")
    broken = f"{workshop / 'judges.py'}:broken"
    with pytest.raises(ProcessError, match=r"(?s)round-1/score failed with exit status 2\. .*broken.*nan"):
        run(workshop, output, "--score.reward_sources", broken)
    assert re.search(
        "round-1/score is done again: reward_sources was .*true_score.* and is", (output / "run.log").read_text()
    )
    print_status(output)
    assert "the next is round-1/score" in capsys.readouterr().out.replace("\n", " ")
    assert (output / "round-1" / "scored.jsonl").read_bytes() == (unbroken / "round-1" / "scored.jsonl").read_bytes()


def test_two_loops_do_not_share_a_folder(workshop, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(output / ".lock")], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        with pytest.raises(ArgumentError, match="is in use by"):
            run(workshop, output)
    finally:
        holder.kill()
        holder.communicate()
    assert [path.name for path in output.iterdir()] == [".lock"]


def test_a_stage_that_dies_is_told_with_the_end_of_its_log(workshop, tmp_path):
    children, log_file = Children(tmp_path), tmp_path / "stage.log"
    (tmp_path / "arguments.json").write_text(json.dumps({"answers_file": "nothing.jsonl"}))
    with pytest.raises(
        ProcessError, match=r"(?s)round-1/score failed with exit status 2\. .*missing required argument"
    ):
        children.run_stage("score", tmp_path / "arguments.json", step="round-1/score", log_file=log_file)
    assert not (tmp_path / "running.json").exists()


@pytest.mark.rare
@pytest.mark.parametrize("name", ["raft", "iterative_dpo", "conditional_sft", "ppo_rounds"])
def test_the_shipped_tiny_loops_run(workshop, tmp_path, monkeypatch, name):
    """As they are, but for fewer prompts and two models of another size in the places of the demo's."""
    monkeypatch.chdir(tmp_path)
    for model, place in (("actor", "sft"), ("reward", "rm")):
        shutil.copytree(workshop / model, tmp_path / "output" / "demo" / place)
    shorter = ["--prompts", "packing-prompts/train:48/-1", "--evaluate.prompts", "packing-prompts/test:8/-1"]
    monkeypatch.setenv("PYTHONPATH", str(runs.ROOT))
    recipe = read_recipe([str(runs.ROOT / "config" / "loops" / "tiny" / f"{name}.json"), "--rounds", "2", *shorter])
    output = run_loop(recipe).parent
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2]
    assert all("eval/true_score" in record for record in records)
    if name == "conditional_sft":
        chosen = [json.loads(line) for line in (output / "round-1" / "chosen.jsonl").read_text().splitlines()]
        words = [row["prompt"].split()[0] for row in chosen]
        assert set(words) == {"um", "maybe", "and", "also"}
        asked = json.loads((output / "round-2" / "conditioned_prompts.jsonl").read_text().splitlines()[0])
        assert asked["input"].startswith("also pack ")
        answers = json.loads((output / "round-2" / "answers.jsonl").read_text().splitlines()[0])
        assert answers["prompt"].startswith("pack ")
