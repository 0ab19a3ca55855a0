"""A run that a signal stops saves, says how to go on, and ends with the weights of the run that nobody stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest
import runs
from refusals import message_of, run_here, train_here

from alignment.runs.output_lock import OutputLock

pytestmark = pytest.mark.e2e

FUNCTIONS = """
import os, signal
calls = []

def lengths(prompts, responses, labels):
    return [float(len(response)) for response in responses]

def stopping(prompts, responses, labels):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return lengths(prompts, responses, labels)
"""


def _content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("policy", "value")
        for path in sorted((folder / name).glob("*.safetensors"))
    }


def test_sigterm_ends_the_rollouts_updates_saves_and_loses_nothing(ppo_arguments, model_variant, tmp_path):
    (tmp_path / "rewards.py").write_text(FUNCTIONS)
    made = {key: value for key, value in ppo_arguments.items() if key != "reward_model_name_or_path"}
    made |= {"reward_critic_model_name_or_path": ppo_arguments["reward_model_name_or_path"], "logging_steps": 3}
    made |= {"eval_datasets": "packing-prompts/test:8/-1", "do_eval": True, "save_strategy": "no"}
    stopped = {**made, "reward_function": "rewards.py:stopping", "output_dir": tmp_path / "stopped"}
    straight = {**made, "reward_function": "rewards.py:lengths", "output_dir": tmp_path / "straight"}
    train_here("ppo", straight, tmp_path)

    done = run_here("ppo", stopped, tmp_path)
    # The first call scores the evaluation before training, the second the first rollout: 8 rows, 4 updates.
    said = (
        f"SIGTERM: stopped after update 4 of 24; {tmp_path}/stopped/checkpoint-4 is written. "
        "Continue with --resume_from_checkpoint true\n"
    )
    assert done.returncode == 143, done.stderr[-3000:]
    assert done.stderr.endswith(said), done.stderr[-3000:]
    assert sorted(path.name for path in (tmp_path / "stopped").glob("*policy*")) == []
    assert not (tmp_path / "stopped" / ".lock").exists()

    resumed = {**straight, "output_dir": tmp_path / "stopped", "resume_from_checkpoint": True}
    for key, model in (("actor_model_name_or_path", "policy"), ("reward_critic_model_name_or_path", "value")):
        other = model_variant(source=made[key], num_hidden_layers=3)
        refused = run_here("ppo", {**resumed, key: other}, tmp_path)
        message_of(refused, f"its model {model!r} has another architecture than {other}", "is 1 there and 3 here")

    train_here("ppo", resumed, tmp_path)
    assert _content(tmp_path / "stopped") == _content(tmp_path / "straight")
    assert runs.computed(tmp_path / "stopped") == runs.computed(tmp_path / "straight")


def test_a_second_run_in_the_folder_is_refused_and_leaves_it_alone(sft_arguments, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    reader, writer = os.pipe()
    holder = os.fork()
    if holder == 0:
        try:
            OutputLock(folder).acquire()
            os.write(writer, b"x")
            time.sleep(120)
        finally:
            os._exit(1)
    os.read(reader, 1)
    try:
        made = {**sft_arguments, "output_dir": folder, "overwrite_output_dir": True}
        message_of(run_here("sft", made, tmp_path), f"output_dir={folder} is in use by process {holder} on ")
        assert [path.name for path in folder.iterdir()] == [".lock"]
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    done = train_here("sft", made, tmp_path)
    assert f"process {holder} on " in done.stderr and "taken over" in done.stderr
    assert not (folder / ".lock").exists()


def test_an_evaluation_whose_models_were_never_written_stands_once(sft_arguments, tmp_path):
    """Killed between the last evaluation and the end, as a full disk of a scheduler does it: its record is there."""
    made = {**sft_arguments, "eval_datasets": "packing-sft/test:8/-1", "do_eval": True, "output_dir": tmp_path / "out"}
    made |= {"save_strategy": "steps", "save_steps": 1}
    train_here("sft", made, tmp_path)
    shutil.rmtree(tmp_path / "out" / "policy")
    before = runs.computed(tmp_path / "out")
    train_here("sft", {**made, "resume_from_checkpoint": True}, tmp_path)
    assert runs.computed(tmp_path / "out") == before
    assert ["eval/loss" in record for record in before] == [False, False, True]
    assert (tmp_path / "out" / "policy").is_dir()


def test_a_longer_schedule_is_said(sft_arguments, tmp_path):
    made = {**sft_arguments, "save_strategy": "steps", "save_steps": 2, "output_dir": tmp_path / "out"}
    train_here("sft", made, tmp_path)
    done = train_here("sft", {**made, "max_steps": 4, "resume_from_checkpoint": True}, tmp_path)
    said = (
        "policy: the learning rate schedule has changed (decay_updates was 2 and is 4): update 3 uses 0.0005; by the "
        "old schedule it was 0"
    )
    assert said in done.stderr
    rates = [record["policy/learning_rate"] for record in runs.metrics(tmp_path / "out")]
    assert rates == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4])
    assert json.loads((tmp_path / "out" / "checkpoint-4" / "state.json").read_text())["step"] == 4
