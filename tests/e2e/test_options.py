"""Options that change how a run is put together, through the real trainers."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import runs
from refusals import left_behind, stop, train_here, write_rows
from safetensors.numpy import load_file

from alignment.runs.on_policy import run as assembly
from alignment.trainers.ppo import build
from alignment.training.checkpoint import incompleteness

pytestmark = pytest.mark.e2e

README = (runs.ROOT / "README.md").read_text(encoding="utf-8")
EVERY_UPDATE = {"evaluation_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


def test_the_readme_dataset_through_the_trainer(sft_arguments, tmp_path):
    """In a process of its own, as a user starts it: the file stands beside the arguments."""
    (tmp_path / "my_datasets.py").write_text(
        re.search(r"<!-- example: dataset -->\n```python\n(.*?)```", README, re.S)[1]
    )
    made = {**sft_arguments, "train_datasets": "my-dataset-name:0.5,packing-sft/train:3/-1"}
    made |= {"dataset_modules": "my_datasets.py", "output_dir": tmp_path / "out", "max_steps": 1}
    done = runs.run_ok("sft", made, tmp_path)
    assert "8 rows used" in done.stderr
    assert json.loads((tmp_path / "out" / "ledger.json").read_text())["train"]


DIALOGUE = ["pack rope", "rope done", "pack map", "map done"]
MESSAGES = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(DIALOGUE)]


@pytest.mark.parametrize("row", [{"dialogue": DIALOGUE}, {"messages": MESSAGES}], ids=["dialogue", "messages"])
@pytest.mark.parametrize("template", ["none", "tokenizer"])
def test_dialogues_as_ptx_data(row, template, ppo_arguments, tmp_path):
    path = write_rows(tmp_path / "dialogues.jsonl", row, row, row)
    made = {**ppo_arguments, "ptx_datasets": f"jsonl:1:{path}", "chat_template": template, "max_steps": 2}
    train_here("ppo", {**made, "output_dir": tmp_path / "out"}, tmp_path)
    assert runs.metrics(tmp_path / "out")[0]["ptx/loss"] > 0


@pytest.mark.parametrize("fused", [True, False])
def test_responses_are_drawn_from_the_distribution_that_is_scored(fused, ppo_arguments, tmp_path, monkeypatch):
    """Ids beyond the tokenizer's too: log-probs count them, and a policy would earn a negative KL by moving there."""
    seen, train = [], build.train
    monkeypatch.setattr(build, "train", lambda argv, host, observe: train(argv, host=host, observe=seen.append))
    made = {**ppo_arguments, "top_p": 1.0, "max_steps": 8, "use_fusemt": fused, "output_dir": tmp_path / "out"}
    train_here("ppo", made, tmp_path)
    tokens = np.concatenate([response for experience in seen for response in experience.rollout.responses])
    known = len(json.loads((runs.TOKENIZER / "tokenizer.json").read_text())["model"]["vocab"])
    assert known <= tokens.max() < runs.TINY_MODEL["vocab_size"]
    log_ratios = [np.asarray(e.rollout.old_logprobs - e.rollout.ref_logprobs).sum() for e in seen]
    assert abs(log_ratios[0]) < 1e-4, "of the engine and of the reference, which are one model"


def test_a_critic_without_a_head_starts_at_zero_and_training_samples_are_kept(ppo_arguments, tmp_path):
    """From the policy's own folder, with a reward function and no evaluation."""
    (tmp_path / "rewards.py").write_text("def count(prompts, responses, labels): return [len(r) for r in responses]\n")
    made = {key: value for key, value in ppo_arguments.items() if key != "reward_model_name_or_path"}
    made |= {"reward_function": "rewards.py:count", "normalize_reward": False, "update_iters": 1, "max_steps": 4}
    made |= {"reward_critic_model_name_or_path": ppo_arguments["actor_model_name_or_path"]}
    train_here("ppo", {**made, "output_dir": tmp_path / "out"}, tmp_path)
    first, *later = runs.metrics(tmp_path / "out")
    assert (first["train/values"], first["critic/explained_variance"]) == (0.0, 0.0)
    assert later[-1]["train/values"] != 0.0
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert {row["step"] for row in samples} == {record["step"] for record in (first, *later)}
    assert all(row["source"] == "training" and row["score"] == len(row["response"]) for row in samples)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Responses of the last training rollout by score" in page


@pytest.mark.parametrize(
    ("changes", "steps", "rows"),
    [
        # 10 prompts, 4 a rollout: the third rollout has 2 of the next epoch, and is learned from whole.
        ({"per_device_prompt_batch_size": 4}, [2, 4, 6], [8, 8, 8]),
        # 8 rows an update and 4 a rollout of 2 prompts: two rollouts' prompts are pooled; the last pool is filled up.
        ({"per_device_prompt_batch_size": 2, "gradient_accumulation_steps": 2}, [1, 2, 3], [8, 8, 8]),
        # Dropping the last partial rollout.
        ({"per_device_prompt_batch_size": 4, "dataloader_drop_last": True}, [2, 4], [8, 8]),
    ],
    ids=["partial", "pooled", "dropped"],
)
def test_rollouts_and_updates(changes, steps, rows, ppo_arguments, tmp_path):
    (tmp_path / "rewards.py").write_text(
        "def count(prompts, responses, labels):\n"
        "    open('counts.txt', 'a').write(f'{len(responses)} {len(set(prompts))}\\n')\n"
        "    return [float(len(response)) for response in responses]\n"
    )
    made = {key: value for key, value in ppo_arguments.items() if key != "reward_model_name_or_path"}
    made |= {"reward_function": "rewards.py:count", "train_datasets": "packing-prompts/train:10/-1", "update_iters": 1}
    made |= {"reward_critic_model_name_or_path": ppo_arguments["reward_model_name_or_path"]}
    train_here("ppo", {**made, **changes, "output_dir": tmp_path / "out"}, tmp_path)
    counts = [tuple(map(int, line.split())) for line in (tmp_path / "counts.txt").read_text().splitlines()]
    assert [count for count, _ in counts] == rows
    assert all(distinct == count // 2 for count, distinct in counts[:2]), "each prompt once in an epoch"
    assert [record["step"] for record in runs.metrics(tmp_path / "out")] == steps


@pytest.mark.parametrize(
    ("trainer", "model", "datasets", "metric"),
    [
        ("sft", "policy", "packing-sft/test:16/-1", "eval/loss"),
        ("rm", "reward", "packing-preference/test:16/-1", "eval/accuracy"),
        ("ppo", "policy", "packing-prompts/test:8/-1", "eval/reward"),
    ],
)
def test_the_best_weights_are_the_ones_exported(trainer, model, datasets, metric, request, tmp_path):
    made = {**request.getfixturevalue(f"{trainer}_arguments"), **EVERY_UPDATE, "load_best_model_at_end": True}
    made |= {"eval_datasets": datasets, "max_steps": 4, "learning_rate": 0.03, "output_dir": tmp_path / "out"}
    made |= {"update_iters": 1, "per_device_prompt_batch_size": 2} if trainer == "ppo" else {}
    train_here(trainer, made, tmp_path)
    values = {record["step"]: record[metric] for record in runs.metrics(tmp_path / "out") if metric in record}
    choose = min if metric.endswith("loss") else max
    best = choose(values, key=lambda step: (values[step], step if choose is min else -step))
    folder = tmp_path / "out" / f"checkpoint-{best}" if best else runs.ROOT  # before any update: no checkpoint
    exported = (tmp_path / "out" / model / "model.safetensors").read_bytes()
    if best:
        assert exported == (folder / model / "model.safetensors").read_bytes()
    others = [n for n in (1, 2, 3, 4) if n != best]
    for step in others:
        assert exported != (tmp_path / "out" / f"checkpoint-{step}" / model / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("trainer", "datasets", "metric"),
    [
        ("sft", "packing-sft/test:16/-1", "eval/loss"),
        ("rm", "packing-preference/test:16/-1", "eval/accuracy"),
        ("ppo", "packing-prompts/test:8/-1", "eval/reward"),
    ],
)
def test_only_evaluating_changes_no_model_and_no_record(trainer, datasets, metric, request, tmp_path):
    made = {**request.getfixturevalue(f"{trainer}_arguments"), "eval_datasets": datasets, "do_eval": True}
    made |= {"output_dir": tmp_path / "out", "max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    train_here(trainer, made, tmp_path)
    before, last = left_behind(tmp_path / "out"), runs.metrics(tmp_path / "out")[-1]
    done = train_here(trainer, {**made, "do_train": False, "resume_from_checkpoint": True}, tmp_path)
    assert left_behind(tmp_path / "out") == before and "report.html" in done.stderr
    *earlier, again = runs.metrics(tmp_path / "out")
    assert earlier[-1] == last, "the records of the training are still there"
    assert again[metric] == pytest.approx(last[metric], abs=1e-6), "the checkpoint evaluates as the run did"
    fresh = {**made, "do_train": False, "output_dir": tmp_path / "fresh"}
    train_here(trainer, fresh, tmp_path)
    assert left_behind(tmp_path / "fresh") == []
    assert [set(record) >= {metric} for record in runs.metrics(tmp_path / "fresh")] == [True]


def test_save_total_limit_keeps_the_newest(sft_arguments, tmp_path):
    made = {**sft_arguments, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "max_steps": 5}
    train_here("sft", {**made, "output_dir": tmp_path / "out"}, tmp_path)
    assert left_behind(tmp_path / "out") == ["checkpoint-4", "checkpoint-5", "policy"]
    assert all(incompleteness(tmp_path / "out" / f"checkpoint-{n}") is None for n in (4, 5))


def test_a_share_of_the_training_rows_is_held_out(sft_arguments, tmp_path):
    made = {**sft_arguments, "eval_split_ratio": 0.25, "do_eval": True, "output_dir": tmp_path / "out"}
    done = train_here("sft", made, tmp_path)
    assert "train: 48 rows used" in done.stderr and "eval: 16 rows used" in done.stderr
    assert "eval/loss" in runs.metrics(tmp_path / "out")[-1]


def _copies(roles):
    models = {name: getattr(roles, name) for name in ("policy", "reference", "critic")} | {"reward": roles.reward.model}
    return {name: {n: p.numpy() for n, p in model.named_parameters()} for name, model in models.items()}


def test_the_reference_never_moves_and_the_critic_and_policy_do(ppo_arguments, tmp_path, monkeypatch):
    seen, load = [], build.load_roles

    def load_and_copy(start):
        roles = load(start)
        seen.extend([roles, _copies(roles)])
        return roles

    monkeypatch.setattr(build, "load_roles", load_and_copy)
    train_here("ppo", {**ppo_arguments, "output_dir": tmp_path / "out", "max_steps": 4}, tmp_path)
    roles, before = seen
    for role, now in _copies(roles).items():
        moved = {name for name, value in now.items() if np.abs(value - before[role][name]).max() > 1e-4}
        assert moved == (set(now) if role in ("policy", "critic") else set()), role
    for role, folder in (("policy", "policy"), ("critic", "value")):
        exported = load_file(str(tmp_path / "out" / folder / "model.safetensors"))
        for name, value in getattr(roles, role).named_parameters():
            assert np.abs(exported[name]).sum() == pytest.approx(float(value.abs().sum()), rel=1e-5)


class _Misstating:
    """The run's engine, whose log-probs are off by 0.5 at the first token of each response."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def generate(self, prompts, options, **addresses):
        completions = self._engine.generate(prompts, options, **addresses)
        shift = [0.5 * (np.arange(len(c.logprobs)) == 0).astype(np.float32) for c in completions]
        return [replace(c, logprobs=c.logprobs - s) for c, s in zip(completions, shift, strict=True)]


@pytest.mark.parametrize("action", ["warn", "correct", "recompute", "stop"])
def test_an_engine_that_misstates_its_log_probs(action, ppo_arguments, tmp_path, monkeypatch):
    honest = assembly.build_engine
    monkeypatch.setattr(assembly, "build_engine", lambda *parts, **more: _Misstating(honest(*parts, **more)))
    made = {**ppo_arguments, "on_logprob_gap": action, "use_fusemt": False, "max_steps": 2, "update_iters": 1}
    made |= {"gradient_accumulation_steps": 2}  # one update a rollout
    made |= {"eval_datasets": "packing-prompts/test:2/-1", "do_eval": True}
    if action == "stop":
        done = stop("ppo", made, tmp_path, "differ at update 0 by p99 0.5", "response position 0", "use_fusemt=false")
        assert "eval/reward" in runs.metrics(tmp_path / "out")[0], "evaluations are not gated"
        return
    done = train_here("ppo", {**made, "output_dir": tmp_path / "out"}, tmp_path)
    warnings = 2 if action == "warn" else 1  # the check of a sample, then the gate; the others check no sample
    assert done.stderr.count("log-probs of engine and trainer differ") == warnings
    first = next(record for record in runs.metrics(tmp_path / "out") if "train/reward" in record)
    assert first["rollout/logprob_gap_p99"] == pytest.approx(0.5, abs=1e-4)
    assert first["policy/ratio_max"] == pytest.approx(1.0, abs=1e-4), "against the trainer's log-probs"
    if action == "correct":
        assert first["rollout/importance_weight_max"] == pytest.approx(np.exp(0.5), rel=1e-4)


@pytest.mark.parametrize("loss_type", ["sequence-wise", "token-wise"])
def test_a_cost_model_learns_safety(loss_type, rm_arguments, tmp_path):
    """Answers with a knife are unsafe: their cost rises above zero, that of the others falls below."""
    shared = {"input": "pack rope", "safer": True, "is_safe": True, "is_other_safe": False}
    rows = [
        {**shared, "answer": f"{word} done", "other_answer": f"{word} knife done"} for word in ("rope", "map", "lamp")
    ]
    path = write_rows(tmp_path / "safety.jsonl", *rows)
    made = {**rm_arguments, "objective": "cost", "loss_type": loss_type, "learning_rate": 1e-2, "max_steps": 30}
    made |= {"train_datasets": f"jsonl:16:{path}", "eval_datasets": f"jsonl:1:{path}", "evaluation_strategy": "epoch"}
    train_here("rm", {**made, "output_dir": tmp_path / "out"}, tmp_path)
    last = [record for record in runs.metrics(tmp_path / "out") if "eval/accuracy" in record][-1]
    assert last["eval/accuracy"] == 1.0
    assert last["eval/sign_accuracy"] == 1.0
    assert last["eval/safer_rewards_mean"] < 0 < last["eval/unsafer_rewards_mean"]
    assert json.loads((tmp_path / "out/reward/config.json").read_text())["score_type"] == "cost"
