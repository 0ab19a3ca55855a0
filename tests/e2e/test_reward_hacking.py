"""A reward that pays for filler is noticed, and each action acts, is told, and survives a resume bit for bit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import runs
from refusals import message_of, run_here, train_here

from alignment.data.sources.packing import true_score
from alignment.models.safetensors_io import read_tensors

pytestmark = pytest.mark.e2e

REWARDS = """
def filler(inputs, responses, labels):
    return [float(response.split().count("um")) for response in responses]
"""


@pytest.fixture(scope="module")
def made(sft_folder, tmp_path_factory):
    """GRPO with a reward that pays for filler: rollouts of 32 answers, an update each."""
    folder = tmp_path_factory.mktemp("hacking")
    (folder / "rewards.py").write_text(REWARDS)
    return {
        **runs.COMMON,
        "rl_algorithm": "grpo",
        "actor_model_name_or_path": sft_folder / "policy",
        "reward_function": f"{folder / 'rewards.py'}:filler",
        "train_datasets": "packing-prompts/train:400/-1",
        "eval_datasets": "packing-prompts/test:16/-1",
        "per_device_prompt_batch_size": 8,
        "num_return_sequences": 4,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 16,
        "max_dec_len": 16,
        "max_steps": 24,
        "learning_rate": 0.02,
        "lr_scheduler_type": "constant",
        "kl_loss_coeff": 0.001,
        "evaluation_strategy": "steps",
        "eval_steps": 5,
    }


def _findings(folder):
    return json.loads((folder / "hacking.json").read_text())


def _weights(folder):
    return {stored.name: stored.as_float32() for stored in read_tensors(folder)}


def _assert_equal(one, other):
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _trained(folder, name):
    return [record[name] for record in runs.metrics(folder) if name in record]


def test_a_reward_for_filler_is_told_once_with_answers_to_read_and_the_run_goes_on(made, tmp_path):
    done = train_here("ppo", {**made, "output_dir": tmp_path / "out"}, tmp_path)
    found = {one["kind"]: one for one in _findings(tmp_path / "out")}
    assert "repetition" in found and len(found) == len(_findings(tmp_path / "out"))
    lines = [line for line in done.stderr.splitlines() if "the reward may be hacked" in line]
    assert len(lines) == len(found) and all(len(one["samples"]) == 3 for one in found.values())
    assert repr(found["repetition"]["samples"][0]["response"]) in done.stderr
    assert max(_trained(tmp_path / "out", "hacking/kinds")) == len(found)
    page = (tmp_path / "out" / "report.html").read_text()
    first = page[page.index('<div class="card">') :]
    assert f"No: {next(iter(found))} since update" in first[:900]
    assert runs.metrics(tmp_path / "out")[-1]["step"] == 24


@pytest.mark.parametrize(
    ("action", "metric", "factor", "resumed"),
    [("lower_lr", "policy/learning_rate", 0.5, 11), ("raise_kl", "train/kl_coeff", 2.0, 22)],
)
def test_an_action_acts_at_each_kind_and_resumes_bit_for_bit(made, tmp_path, action, metric, factor, resumed):
    keys = {**made, "on_reward_hacking": action, "kl_coeff": 0.001, "evaluation_strategy": "no", "eval_datasets": None}
    keys |= {"save_strategy": "steps", "save_steps": 11, "output_dir": tmp_path / "whole"}
    train_here("ppo", keys, tmp_path)
    found = _findings(tmp_path / "whole")
    values, start = _trained(tmp_path / "whole", metric), {"lower_lr": 0.02, "raise_kl": 0.001}[action]
    # A finding is made after the update that ends its window, so the next one is the first to feel it.
    expected = [start * factor ** sum(one["step"] < step for one in found) for step in range(1, 25)]
    assert values == pytest.approx(expected) and 11 < found[0]["step"] <= 20 and len(found) > 1
    assert f"on_reward_hacking={action}" in found[0]["action"]
    again = tmp_path / "again"
    checkpoint = tmp_path / "whole" / f"checkpoint-{resumed}"
    train_here("ppo", {**keys, "output_dir": again, "resume_from_checkpoint": checkpoint}, tmp_path)
    _assert_equal(_weights(again / "policy"), _weights(tmp_path / "whole" / "policy"))
    assert _findings(again) == found
    assert _trained(again, metric) == values[resumed:]


def test_stop_at_best_ends_with_status_0_and_the_best_weights_before_any_sign(made, tmp_path):
    keys = {**made, "on_reward_hacking": "stop_at_best", "output_dir": tmp_path / "out"}
    done = train_here("ppo", keys, tmp_path)
    (found, *_), records = _findings(tmp_path / "out"), runs.metrics(tmp_path / "out")
    last = max(record["step"] for record in records)
    assert last == found["step"] < 24
    best = int((tmp_path / "out" / "best" / "step.txt").read_text())
    rewards = {record["step"]: record["eval/reward"] for record in records if "eval/reward" in record}
    assert best < last and rewards[best] == max(value for step, value in rewards.items() if step <= best)
    said = f"the run ended after update {last} of 24 ({found['kind']}: "
    assert said in done.stderr and f"are those of update {best}, the best by eval/reward" in done.stderr
    _assert_equal(_weights(tmp_path / "out" / "policy"), _weights(tmp_path / "out" / "best" / "policy"))


def test_actions_that_cannot_act_are_refused(made, tmp_path):
    keys = {**made, "output_dir": tmp_path / "out"}
    none = {"evaluation_strategy": "no", "eval_datasets": None, "on_reward_hacking": "stop_at_best"}
    message_of(run_here("ppo", {**keys, **none}, tmp_path), "needs evaluations", "evaluation_strategy=steps")
    free = {"kl_loss_coeff": 0, "on_reward_hacking": "raise_kl"}
    message_of(run_here("ppo", {**keys, **free}, tmp_path), "raise_kl", "all are 0: give kl_coeff")


JUDGES = """
from alignment.data.sources.packing import true_score


def truth(inputs, responses, labels):
    return [true_score(text, response) for text, response in zip(inputs, responses)]
"""


@pytest.fixture(scope="module")
def judged(made, rm_folder, other_tokenizer, tmp_path_factory):
    """The same run with two second judges: the true score, and a reward model with another tokenizer."""
    folder = tmp_path_factory.mktemp("judges")
    (folder / "judges.py").write_text(JUDGES)
    shutil.copytree(rm_folder / "reward", folder / "held-out")
    for path in other_tokenizer.iterdir():
        shutil.copy(path, folder / "held-out")
    keys = {"eval_reward": f"{folder / 'judges.py'}:truth,{folder / 'held-out'}", "metric_for_best_model": "truth"}
    return {**made, **keys, "eval_greedy": True, "max_steps": 15, "on_reward_hacking": "stop_at_best"}


def test_second_judges_score_the_answers_of_each_evaluation_and_choose_the_best_weights(judged, tmp_path):
    done = train_here("ppo", {**judged, "output_dir": tmp_path / "out"}, tmp_path)
    evaluations = {record["step"]: record for record in runs.metrics(tmp_path / "out") if "eval/truth" in record}
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").open()]
    for step, record in evaluations.items():
        rows = [row for row in samples if row["step"] == step]
        scores = [true_score(row["prompt"], row["response"]) for row in rows]
        assert [row["truth"] for row in rows] == pytest.approx(scores, abs=1e-6) and len(rows) == 16
        assert record["eval/truth"] == pytest.approx(np.mean(scores), abs=1e-6)
        assert record["eval/truth_std"] == pytest.approx(np.std(scores), abs=1e-6)
        assert record["eval/held_out"] == pytest.approx(np.mean([row["held_out"] for row in rows]), abs=1e-6)
        greedy = [true_score(row["prompt"], row["greedy_response"]) for row in rows]
        assert record["eval/greedy_truth"] == pytest.approx(np.mean(greedy), abs=1e-6)
        paid = [row["greedy_response"].split().count("um") for row in rows]
        assert record["eval/greedy_reward"] == np.mean(paid) and [row["greedy_reward"] for row in rows] == paid
        assert {"eval/greedy_reward_std", "eval/greedy_held_out", "eval/greedy_held_out_std"} <= record.keys()
    assert "the second judge held_out has another tokenizer, " in done.stderr
    assert "re-encoded with its template" in done.stderr
    best = max(evaluations, key=lambda step: evaluations[step]["eval/truth"])
    assert (tmp_path / "out" / "best" / "step.txt").read_text() == str(best)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "No: " in page and "Second judge: truth" in page and "truth did not rise" in page
    (found,) = [one for one in _findings(tmp_path / "out") if one["kind"] == "judge"]
    assert found["text"].startswith("the second judge truth fell from ") and found["step"] == max(evaluations)
    start = "" if best else ", with which training started"
    assert "status" not in done.stderr and f"update {best}{start}, the best by eval/truth" in done.stderr


def test_judges_that_cannot_judge_are_refused_by_name(judged, made, tmp_path):
    keys = {**judged, "output_dir": tmp_path / "out"}
    folder = tmp_path / "broken"
    shutil.copytree(keys["actor_model_name_or_path"], folder)
    (folder / "tokenizer.json").write_text("{}")
    message_of(
        run_here("ppo", {**keys, "eval_reward": str(folder)}, tmp_path), "the second judge broken has a tokenizer that"
    )
    named = {"name": made["reward_function"], "log_as": "reward"}
    message_of(run_here("ppo", {**keys, "eval_reward": [named]}, tmp_path), "the name of another metric", '"log_as"')
    weighted = {"name": made["reward_function"], "weight": 2}
    message_of(run_here("ppo", {**keys, "eval_reward": [weighted]}, tmp_path), "each judge is reported alone")
