"""What keeps a run stable: critic warm-up, an average of the policy, early stops, and what the critic starts from."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import runs
from refusals import refuse, stop, train_here

from alignment.models.safetensors_io import read_tensors
from alignment.training.optimizers import NamedAdamW

pytestmark = pytest.mark.e2e


def _weights(folder):
    return {stored.name: stored.as_float32() for stored in read_tensors(folder)}


def _equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def made(ppo_arguments):
    """Six rollouts of one update each."""
    return {**ppo_arguments, "update_iters": 1, "per_device_train_batch_size": 8, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """A run of six updates, the first two of the critic alone, with an average, and a checkpoint after each."""
    folder = tmp_path_factory.mktemp("stable")
    keys = {"freezing_actor_steps": 2, "use_ema": True, "ema_beta": 0.75, "save_strategy": "steps", "save_steps": 1}
    train_here("ppo", {**made, **keys, "output_dir": folder / "whole", "lr_scheduler_type": "cosine"}, folder)
    return folder / "whole", {**made, **keys, "lr_scheduler_type": "cosine"}


def test_the_policy_stays_bit_equal_while_the_critic_learns(whole):
    folder, made = whole
    start = _weights(made["actor_model_name_or_path"])
    for step, is_equal in ((1, True), (2, True), (3, False)):
        assert _equal(_weights(folder / f"checkpoint-{step}" / "policy"), start) == is_equal
    values = [_weights(folder / f"checkpoint-{step}" / "value") for step in (1, 2, 3)]
    assert not _equal(values[0], values[1]) and not _equal(values[1], values[2])
    records = [record for record in runs.metrics(folder) if "critic/loss" in record]
    assert [name in records[1] for name in ("policy/loss", "ptx/loss", "critic/loss")] == [False, False, True]
    # The policy's schedule begins with its first update, and covers the four that it makes.
    rates = [record.get("policy/learning_rate") for record in records]
    expected = [0.01 * 0.5 * (1 + np.cos(np.pi * k / 4)) for k in range(4)]
    assert rates[:2] == [None, None] and rates[2:] == pytest.approx(expected)
    assert records[5]["critic/learning_rate"] == pytest.approx(0.01 * 0.5 * (1 + np.cos(np.pi * 5 / 6)))


def test_the_average_is_that_of_the_weights_after_each_update(whole):
    folder, made = whole
    average = _weights(made["actor_model_name_or_path"])
    for step in (3, 4, 5, 6):
        weights = _weights(folder / f"checkpoint-{step}" / "policy")
        average = {name: 0.75 * average[name] + 0.25 * weights[name] for name in average}
    found = _weights(folder / "policy_ema")
    assert found.keys() == average.keys()
    assert max(np.abs(found[name] - average[name]).max() for name in found) < 1e-7
    assert not _equal(found, _weights(folder / "policy"))


@pytest.mark.parametrize("step", [1, 4])
def test_a_run_resumed_in_and_after_the_warm_up_ends_bit_for_bit(step, whole, tmp_path):
    folder, made = whole
    resumed = {**made, "output_dir": tmp_path / "out", "resume_from_checkpoint": folder / f"checkpoint-{step}"}
    train_here("ppo", resumed, tmp_path)
    for model in ("policy", "policy_ema", "value"):
        assert _equal(_weights(tmp_path / "out" / model), _weights(folder / model)), model
    assert runs.computed(tmp_path / "out") == [record for record in runs.computed(folder) if record["step"] > step]


def test_an_average_begins_with_the_run_and_is_not_dropped_in_silence(whole, made, tmp_path):
    folder, keys = whole
    without = {**keys, "use_ema": False, "output_dir": tmp_path / "first", "max_steps": 5, "ema_beta": 0.992}
    done = train_here("ppo", {**without, "resume_from_checkpoint": folder / "checkpoint-4"}, tmp_path)
    assert "checkpoint-4 holds policy_ema, which this run drops (use_ema is false)" in done.stderr
    assert not (tmp_path / "first" / "policy_ema").exists()
    again = {**keys, "max_steps": 6}
    there = tmp_path / "first" / "checkpoint-5"
    stop("ppo", {**again, "resume_from_checkpoint": there}, tmp_path, "kept no average of the weights (policy_ema)")


def test_a_run_whose_metric_stays_the_same_stops_early(made, tmp_path):
    keys = {"learning_rate": 0.0, "evaluation_strategy": "steps", "eval_steps": 1, "early_stopping": True}
    keys |= {"early_stopping_patience": 2, "eval_datasets": "packing-prompts/test:4/-1", "eval_do_sample": False}
    done = train_here("ppo", {**made, **keys, "output_dir": tmp_path / "out"}, tmp_path)
    assert "in the last 2 evaluations: the run ends after update 2 of 6" in done.stderr
    assert runs.metrics(tmp_path / "out")[-1]["step"] == 2 and (tmp_path / "out" / "policy").is_dir()


@pytest.mark.parametrize("start", ["policy", "scratch"])
def test_a_critic_starts_from_the_policy_or_from_nothing_and_its_head_from_the_seed(start, made, tmp_path):
    keys = {**made, "critic_init": start, "learning_rate": 0.0, "max_steps": 1, "ptx_coeff": 0.0}
    for name, seed in (("one", 7), ("two", 7), ("other", 8)):
        train_here("ppo", {**keys, "seed": seed, "output_dir": tmp_path / name}, tmp_path)
    one, two, other = (_weights(tmp_path / name / "value") for name in ("one", "two", "other"))
    assert _equal(one, two) and not _equal(one, other)
    assert np.std(one["score.weight"]) > 0.01
    policy = _weights(keys["actor_model_name_or_path"])
    shared = [name for name in one if name in policy]
    assert len(shared) > 5
    is_policy = [np.array_equal(one[name], policy[name]) for name in shared]
    assert all(is_policy) if start == "policy" else not all(is_policy)


def test_a_critic_that_cannot_start_is_refused(made, tmp_path):
    function = tmp_path / "rewards.py"
    function.write_text("def score(prompts, responses, labels):\n    return [1.0 for _ in responses]\n")
    keys = {key: value for key, value in made.items() if key != "reward_model_name_or_path"}
    keys |= {"reward_function": f"{function}:score"}
    refuse("ppo", keys, tmp_path, "or critic_init=policy (or scratch)")
    refuse("ppo", {**keys, "critic_init": "scratch", "lora": True}, tmp_path, "critic_init=scratch with lora=true")
    ran = {**keys, "critic_init": "policy", "max_steps": 1, "output_dir": tmp_path / "out", "clip_range_value": None}
    train_here("ppo", ran, tmp_path, "--clip_range_value", "null")
    assert runs.metrics(tmp_path / "out")[-1]["critic/clip_fraction"] == 0


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_plain_run_leaves_samples_of_its_last_rollout(algorithm, ppo_arguments, tmp_path):
    made = {key: value for key, value in ppo_arguments.items() if key != "logging_steps"}
    train_here("ppo", {**made, "rl_algorithm": algorithm, "output_dir": tmp_path / "out"}, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and {row["step"] for row in rows} == {24}
    assert all(row["prompt"] and isinstance(row["score"], float) and "response" in row for row in rows)


RATES = {
    "policy": [0.0, 0.005, 0.01, 0.009, 0.008, 0.007, 0.006, 0.005, 0.004, 0.003, 0.002, 0.001],
    "critic": [0.02 * 0.5 * (1 + math.cos(math.pi * k / 12)) for k in range(12)],
}
"""Of each update: warm-up over two of twelve, then linear; the critic's cosine has none."""


def test_the_learning_rate_in_the_log_is_that_of_the_latest_update(ppo_arguments, tmp_path, monkeypatch):
    applied = {"policy": [], "critic": []}
    step = NamedAdamW.step

    def watched(self, rate, **clipping):
        applied["critic" if "score.weight" in self.parameters else "policy"].append(rate)
        step(self, rate, **clipping)

    monkeypatch.setattr(NamedAdamW, "step", watched)
    made = {**ppo_arguments, "learning_rate": 0.01, "warmup_steps": 2, "max_steps": 12, "logging_steps": 3}
    made |= {"critic_learning_rate": 0.02, "critic_lr_scheduler_type": "cosine", "save_strategy": "steps"}
    made |= {"save_steps": 4, "logging_first_step": True}
    critic = {"critic_warmup_ratio": 0.0, "warmup_ratio": 2 / 12}
    made = {**{key: value for key, value in made.items() if key != "warmup_steps"}, **critic}
    train_here("ppo", {**made, "output_dir": tmp_path / "whole"}, tmp_path)
    assert applied == {name: pytest.approx(rates) for name, rates in RATES.items()}
    resumed = {**made, "output_dir": tmp_path / "rest", "resume_from_checkpoint": tmp_path / "whole" / "checkpoint-4"}
    train_here("ppo", resumed, tmp_path)
    # Four updates a rollout, which are recorded after 4, 8 and 12.
    for folder, steps in (("whole", [4, 8, 12]), ("rest", [8, 12])):
        records = [record for record in runs.metrics(tmp_path / folder) if "policy/loss" in record]
        assert [record["step"] for record in records] == steps
        for record in records:
            for name, rates in RATES.items():
                assert record[f"{name}/learning_rate"] == pytest.approx(rates[record["step"] - 1])


def test_every_rollout_is_full_and_the_run_says_how_many_updates_an_epoch_has(ppo_arguments, tmp_path):
    made = {**ppo_arguments, "train_datasets": "packing-prompts/train:10/-1", "update_iters": 1}
    made |= {"save_strategy": "steps", "save_steps": 3}
    done = train_here("ppo", {**made, "num_train_epochs": 2, "output_dir": tmp_path / "out"}, tmp_path)
    # 20 prompts are five rollouts of four prompts, each of two updates of four of its eight responses.
    assert "10 updates (5 per epoch); each rollout is 4 prompts x 2 = 8 responses, 4 per update" in done.stderr
    said = "; at the end of a rollout (2 updates) come checkpoints (save_steps=3) after update 4, 6, 10\n"
    assert done.stderr.count(said) == 1
    saved = {path.name for path in (tmp_path / "out").glob("checkpoint-*")}
    assert saved == {"checkpoint-4", "checkpoint-6", "checkpoint-10"}
    one = train_here("ppo", {**made, "output_dir": tmp_path / "one", "save_strategy": "epoch"}, tmp_path)
    assert "6 updates (5 per epoch)" in one.stderr, "the third rollout is full too"
    assert [path.name for path in sorted((tmp_path / "one").glob("checkpoint-*"))] == ["checkpoint-6"]
    position = json.loads((tmp_path / "one" / "checkpoint-6" / "state.json").read_text())["prompts"]
    assert (position["epoch"], position["row"]) == (1, 2)


def test_equal_prompts_are_used_once_or_all_and_counted(ppo_arguments, tmp_path):
    rows = ["pack rope", "pack knife", "pack rope", "pack rope"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"input": row}) + "\n" for row in rows))
    made = {**ppo_arguments, "train_datasets": "jsonl:1.0:rows.jsonl", "max_steps": 1}
    for keeps, number, reason in ((False, 2, "duplicate_prompt 2"), (True, 4, "repeated_prompt 2")):
        keys = {**made, "remove_same_inputs": not keeps, "output_dir": tmp_path / reason.split()[0]}
        done = train_here("ppo", keys, tmp_path)
        assert f"train: {number} rows used; left out or changed: {reason}" in done.stderr
