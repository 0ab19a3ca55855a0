"""What goes wrong while a run is under way: numbers that explode, a full disk, checkpoints that do not fit."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from pathlib import Path

import pytest
import runs
from refusals import left_behind, message_of, refuse, run_here, stop, train_here

from alignment.runs.state import RunState
from alignment.training.checkpoint import MANIFEST, incompleteness
from alignment.training.learner import Learner

pytestmark = pytest.mark.e2e

SAVING = {"save_strategy": "steps", "save_steps": 1}
DISK = {**SAVING, "lr_scheduler_type": "constant", "max_steps": 2}
ONE_UPDATE_A_ROLLOUT = {
    "per_device_prompt_batch_size": 2,
    "num_return_sequences": 2,
    "per_device_train_batch_size": 4,
    "update_iters": 1,
}


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _ruin_after_the_first_save(monkeypatch, folder, weight, value):
    """Put ``value`` into a weight of the model that is kept in ``folder``, as a step that was too large does.

    A large learning rate does the same, but how far the numbers get depends on the processor.
    """
    save = RunState.save

    def save_and_ruin(self, step):
        saved = save(self, step)
        tensor = dict(self.learners[folder].runner.model.named_parameters())[weight]
        tensor.set_value(tensor * 0 + value)
        return saved

    monkeypatch.setattr(RunState, "save", save_and_ruin)


NORM, HEAD = "model.norm.weight", "score.weight"
NAN, INFINITE = float("nan"), float("inf")
LOWER = "The model has diverged: lower the learning rate"


ROLLOUT = "in the rollout for update 2"
SCORED = {"values_from_update": False}
LOSS = "is nan at update 2, which was not applied"


@pytest.mark.parametrize(
    ("trainer", "ruined", "changes", "says"),
    [
        ("sft", ("policy", NORM, NAN), {}, ["policy: ", LOSS]),
        ("sft", ("policy", NORM, INFINITE), {}, ["policy: ", "at update 2, which was not applied"]),
        ("rm", ("reward", HEAD, NAN), {}, ["reward: ", LOSS]),
        ("ppo", ("value", HEAD, NAN), SCORED, ["critic: its values are NaN or infinite for", ROLLOUT]),
        ("ppo", ("value", HEAD, INFINITE), SCORED, ["critic: its values are NaN or infinite for", ROLLOUT]),
        ("ppo", ("value", HEAD, INFINITE), {}, ["critic: ", "at update 2, which was not applied"]),
        ("ppo", ("policy", NORM, NAN), {"use_fusemt": True}, ["policy: the model's logits for new token 0", ROLLOUT]),
        ("ppo", ("policy", NORM, NAN), {"use_fusemt": False}, ["policy: the model's logits for new token 0", ROLLOUT]),
    ],
    ids=[
        "sft",
        "sft infinite",
        "rm",
        "critic",
        "critic infinite",
        "critic, one pass",
        "policy, fused",
        "policy, eager",
    ],
)
def test_numbers_that_explode_stop_the_run_and_spare_the_checkpoint(
    trainer, ruined, changes, says, request, monkeypatch, tmp_path
):
    _ruin_after_the_first_save(monkeypatch, *ruined)
    rollouts = ONE_UPDATE_A_ROLLOUT if trainer == "ppo" else {}
    made = {**request.getfixturevalue(f"{trainer}_arguments"), **SAVING, **rollouts, "max_steps": 4, **changes}
    stop(trainer, made, tmp_path, LOWER, *says)
    assert left_behind(tmp_path / "out") == ["checkpoint-1"]
    assert incompleteness(tmp_path / "out" / "checkpoint-1") is None


@pytest.mark.parametrize(
    ("trainer", "changes", "model"),
    [
        ("sft", {"learning_rate": 1e39}, "policy: "),
        ("rm", {"learning_rate": 1e39}, "reward: "),
        ("ppo", {**ONE_UPDATE_A_ROLLOUT, "critic_learning_rate": 1e39}, "critic: "),
        ("ppo", {**ONE_UPDATE_A_ROLLOUT, "learning_rate": 1e39, "critic_learning_rate": 1e-3}, "policy: "),
    ],
)
def test_weights_that_one_step_made_infinite_are_not_saved(trainer, changes, model, request, tmp_path):
    """1e39 is infinite in float32, and so are the weights."""
    made = {**request.getfixturevalue(f"{trainer}_arguments"), **SAVING, "max_steps": 4, **changes}
    stop(trainer, made, tmp_path, model, "holds NaN or infinite numbers after update 1 (learning rate 1e+39)", LOWER)
    assert left_behind(tmp_path / "out") == []


def _ruin_after_the_first_update(monkeypatch, model, weight, value):
    """Put ``value`` into a weight of ``model`` as soon as its first update is made."""
    apply = Learner.apply

    def apply_and_ruin(self):
        metrics = apply(self)
        if self.name == model and self.num_updates == 1:
            tensor = dict(self.runner.model.named_parameters())[weight]
            tensor.set_value(tensor * 0 + value)
        return metrics

    monkeypatch.setattr(Learner, "apply", apply_and_ruin)


@pytest.mark.parametrize(
    ("trainer", "ruined", "datasets", "says"),
    [
        ("sft", ("policy", NORM), "packing-sft/test:8/-1", "policy: eval/loss is nan"),
        ("rm", ("reward", NORM), "packing-preference/test:8/-1", "reward: eval/"),
        ("ppo", ("policy", NORM), "packing-prompts/test:8/-1", "policy: the model's logits for new token 0 are NaN"),
    ],
)
def test_an_evaluation_that_is_not_finite_ends_the_run_without_a_model(
    trainer, ruined, datasets, says, request, monkeypatch, tmp_path
):
    """The last update has no training step behind it that would notice."""
    _ruin_after_the_first_update(monkeypatch, *ruined, NAN)
    made = {**request.getfixturevalue(f"{trainer}_arguments"), **ONE_UPDATE_A_ROLLOUT, "max_steps": 1}
    made = made if trainer == "ppo" else {k: v for k, v in made.items() if k not in ONE_UPDATE_A_ROLLOUT}
    made |= {"eval_datasets": datasets, "do_eval": True}
    stop(trainer, made, tmp_path, says, "in the evaluation after update 1", LOWER)
    assert left_behind(tmp_path / "out") == []


def test_a_variable_of_the_launcher_that_was_left_over_is_named(sft_arguments, monkeypatch, tmp_path):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    refuse("sft", sft_arguments, tmp_path, "PADDLE_TRAINERS_NUM=2 in the environment", "unset them")
    assert not (tmp_path / "out").exists()


def test_a_last_update_that_ruins_the_model_exports_nothing(sft_arguments, monkeypatch, tmp_path):
    """Without evaluation nobody looks at the weights any more."""
    _ruin_after_the_first_update(monkeypatch, "policy", NORM, NAN)
    made = {**sft_arguments, "max_steps": 1}
    stop("sft", made, tmp_path, "policy: its outputs are NaN or infinite after update 1", "not exported", LOWER)
    assert left_behind(tmp_path / "out") == []


def test_a_policy_that_died_of_one_large_step_ends_the_run(ppo_arguments, monkeypatch, tmp_path):
    """With logits of about a million one token has probability 1, exactly, and nothing has a gradient."""
    _ruin_after_the_first_update(monkeypatch, "policy", NORM, 1e6)
    made = {**ppo_arguments, **ONE_UPDATE_A_ROLLOUT, "max_steps": 8, "learning_rate": 1e-3, "ptx_coeff": 0.0}
    made = {key: value for key, value in made.items() if key not in {"ptx_datasets", "kl_target"}}
    stop("ppo", made, tmp_path, "policy: the gradient was exactly 0 in the last 3 iterations up to update 4", "now)")
    assert left_behind(tmp_path / "out") == []


@contextlib.contextmanager
def _largest_file(num_bytes):
    """Let every write beyond ``num_bytes`` of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("num_bytes", "file"),
    [(3000, "arguments.json"), (20_000, "checkpoint-1"), (60_000, "checkpoint-1")],
    ids=["arguments", "weights", "optimizer"],
)
def test_a_file_that_cannot_be_written(num_bytes, file, sft_arguments, tmp_path):
    with _largest_file(num_bytes):
        done = run_here("sft", {**sft_arguments, **SAVING, "output_dir": tmp_path / "out"}, tmp_path)
    message_of(done, f"cannot write {tmp_path}/out/{file}", "File too large")
    assert left_behind(tmp_path / "out") == []


def test_a_run_goes_on_after_the_disk_was_full(sft_arguments, tmp_path):
    straight = {**sft_arguments, **DISK, "max_steps": 4, "output_dir": tmp_path / "straight"}
    train_here("sft", straight, tmp_path)
    made = {**sft_arguments, **DISK, "output_dir": tmp_path / "out", "resume_from_checkpoint": True}
    train_here("sft", made, tmp_path)
    kept = _files(tmp_path / "out" / "checkpoint-2")
    longer = runs.command("sft", {**made, "max_steps": 4}, tmp_path)
    full = subprocess.run(
        longer,
        cwd=tmp_path,
        env=runs.environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)),
        check=False,
    )
    message_of(full, "checkpoint-3", "File too large", "earlier checkpoints are untouched")
    assert _files(tmp_path / "out" / "checkpoint-2") == kept
    assert not list((tmp_path / "out").glob(".*"))
    train_here("sft", {**made, "max_steps": 4}, tmp_path)
    assert _files(tmp_path / "out" / "policy") == _files(tmp_path / "straight" / "policy")


def test_a_disk_that_is_really_full(sft_arguments, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk is not allowed here; the other tests limit the size of files instead")
    try:
        made = {**sft_arguments, **SAVING, "save_steps": 2, "output_dir": disk / "out", "max_steps": 4}
        stop("sft", {**made, "train_datasets": "packing-sft/train:32/-1"}, tmp_path, "checkpoint-4", "No space left")
        assert left_behind(disk / "out") == ["checkpoint-2"]
        assert incompleteness(disk / "out" / "checkpoint-2") is None
        again = run_here("sft", {**made, "output_dir": disk / "other"}, tmp_path)
        message_of(again, f"{disk}/other", "MiB are free", "Free some space")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def finished(sft_arguments, tmp_path):
    """Arguments and output folder of a run with checkpoints 1, 2 and 3."""
    made = {**sft_arguments, **SAVING, "max_steps": 3, "output_dir": tmp_path / "out"}
    train_here("sft", made, tmp_path)
    return {**made, "max_steps": 5, "resume_from_checkpoint": True}, tmp_path / "out"


def _cut(name):
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:-9])

    return damage


def _zero(name):
    """Put zeros into the last numbers of a file, as a lost page does; its size stays."""

    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:-64] + bytes(64))

    return damage


DAMAGES = [
    (_zero("policy_optimizer.safetensors"), "policy_optimizer.safetensors is damaged"),
    (_cut("policy_optimizer.safetensors"), "policy_optimizer.safetensors has"),
    (_cut("policy/model.safetensors"), "policy/model.safetensors has"),
    (lambda c: (c / "state.json").write_bytes(b"x" * (c / "state.json").stat().st_size), "state.json is damaged"),
    (lambda c: (c / MANIFEST).unlink(), "writing it never finished"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES, ids=["zeros", "optimizer", "weights", "state", "manifest"])
def test_a_damaged_checkpoint_is_refused_by_name_and_passed_over_by_true(damage, reason, finished, tmp_path):
    made, output_dir = finished
    damage(output_dir / "checkpoint-3")
    named = run_here("sft", {**made, "resume_from_checkpoint": output_dir / "checkpoint-3"}, tmp_path)
    message_of(named, f"cannot resume from {output_dir}/checkpoint-3", reason)
    done = train_here("sft", made, tmp_path)
    assert f"skipped {output_dir}/checkpoint-3: " in done.stderr and reason in done.stderr
    assert f"resuming from {output_dir}/checkpoint-2" in done.stderr
    assert "skipped" in (output_dir / "run.log").read_text()
    assert [record["step"] for record in runs.metrics(output_dir)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"per_device_train_batch_size": 4}, "batch_size was 8 and is 4"),
        ({"train_datasets": "packing-sft/train:32/-1"}, "num_rows was 64 and is 32"),
        ({"train_datasets": "packing-sft/test:64/-1"}, "the rows have changed"),
        ({"seed": 8}, "seed was 7 and is 8"),
    ],
)
def test_other_options_do_not_continue_a_run(changes, says, finished, tmp_path):
    made, output_dir = finished
    before = _files(output_dir / "checkpoint-3")
    message = message_of(run_here("sft", {**made, **changes}, tmp_path), f"{output_dir}/checkpoint-3", says)
    assert "start a new run from its model" in message
    assert _files(output_dir / "checkpoint-3") == before
    assert len(runs.metrics(output_dir)) == 3


def test_other_micro_batches_continue_a_run(finished, tmp_path):
    made, output_dir = finished
    train_here("sft", {**made, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, tmp_path)
    assert [record["step"] for record in runs.metrics(output_dir)] == [1, 2, 3, 4, 5]


def test_the_checkpoint_of_another_trainer_is_refused(finished, rm_arguments, tmp_path):
    _, output_dir = finished
    made = {**rm_arguments, "output_dir": tmp_path / "rm", "resume_from_checkpoint": output_dir / "checkpoint-3"}
    message_of(run_here("rm", made, tmp_path), "checkpoint-3", "no model 'reward' (its models: policy)")


def test_the_checkpoint_of_another_architecture_is_refused(finished, model_config, model_variant, tmp_path):
    made, output_dir = finished
    larger = model_variant(source=model_config, num_hidden_layers=3)
    made = {key: value for key, value in made.items() if key != "model_name_or_path"}
    made |= {"model_config_name_or_path": larger, "tokenizer_name_or_path": runs.TOKENIZER}
    done = run_here("sft", made, tmp_path)
    message_of(done, f"{output_dir}/checkpoint-3", str(larger), "num_hidden_layers is 1 there and 3 here")
    assert len(runs.metrics(output_dir)) == 3


def test_a_finished_run_says_that_nothing_is_left_to_train(finished, tmp_path):
    made, _ = finished
    done = train_here("sft", {**made, "max_steps": 3}, tmp_path)
    assert "nothing left to train: the checkpoint has 3 of 3 updates" in done.stderr
