"""The run that a plan is compared with: its models, its arguments, and machines that are too small for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from alignment.architecture.layout import Layout
from alignment.arguments.global_batches import share_global_batches
from alignment.arguments.peers.presets import PRESETS
from alignment.errors import UserError
from alignment.models.folders.hub import load_causal_lm, load_score_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.planner import check
from alignment.planner.check import PROCESS_BYTES, check_memory
from alignment.planner.memory import phase_memory
from alignment.planner.offline_job import read_offline_job
from alignment.planner.on_policy_job import read_job
from alignment.planner.trial import Peak
from alignment.trainers.ppo.arguments import parse_ppo_arguments
from alignment.trainers.registered import TRAINERS
from tests.unit.planner.jobs import SHAPE

LAYOUT = Layout(sharding=2, sharding_stage=1)


@pytest.fixture
def parsed(tmp_path):
    for name in ("policy", "reward"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**SHAPE, "hidden_size": 256}))
    given = {
        "train_datasets": "packing-prompts/train",
        "actor_model_name_or_path": "policy",
        "reward_model_name_or_path": "reward",
        "output_dir": "output",
        "max_length": 64,
        "max_dec_len": 16,
        "per_device_prompt_batch_size": 8,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "sharding": "stage1",
        "offload_level": "optimizer",
        "bf16": True,
        "fp16_opt_level": "O2",
        "use_fusemt": False,
    }
    path = tmp_path / "ppo.json"
    path.write_text(json.dumps(given))
    return parse_ppo_arguments([str(path)])


def stand_in(factor):
    """Return a run in which every phase needs what was predicted times ``factor``."""

    def run_ranks(target, path, *, world_size, timeout):
        job = read_job(parse_ppo_arguments([path]), device="cpu")
        tensors = phase_memory(job, LAYOUT, lambda m: m.on_device)
        everything = phase_memory(job, LAYOUT, lambda m: m.everywhere)
        peaks = {
            phase: Peak(int(tensors[phase].on_device * factor), everything[phase].everywhere + PROCESS_BYTES)
            for phase in tensors
        }
        return [peaks, {phase: Peak(0, 0) for phase in peaks}]

    return run_ranks


def test_without_a_library_paddles_operators_are_predicted(parsed, monkeypatch, capsys):
    job = read_job(parsed, device="cpu")
    assert job.native
    seen = []
    monkeypatch.setattr(check, "load_core", lambda: None)
    monkeypatch.setattr(check, "phase_memory", lambda job, *rest: (seen.append(job), phase_memory(job, *rest))[1])
    monkeypatch.setattr(check, "run_ranks", stand_in(1.0))
    check_memory(parsed, job, LAYOUT)
    assert seen and not any(job.native or job.fused for job in seen)


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.08, 0), (0.92, 0), (1.2, 1), (0.8, 1)])
def test_the_exit_status_says_whether_predictions_are_within_ten_percent(parsed, monkeypatch, factor, status, capsys):
    monkeypatch.setattr(check, "run_ranks", stand_in(factor))
    assert check_memory(parsed, read_job(parsed, device="cpu"), LAYOUT) == status
    table = capsys.readouterr().out
    assert ("OFF" in table) == bool(status)
    assert table.count("tensors") == table.count("resident memory") == 3


def test_the_run_has_the_models_and_batches_of_the_file(parsed, monkeypatch):
    seen = []

    def look(target, path, *, world_size, timeout):
        run = parse_ppo_arguments([path])
        assert (target, world_size) == ("alignment.planner.trial:run_trial", 2)
        policy = load_causal_lm(run.on_policy.actor_model_name_or_path)
        tokenizer = load_tokenizer(run.on_policy.actor_model_name_or_path)
        assert policy.config.eos_token_ids == (tokenizer.eos_token_id,)
        assert policy.config.vocab_size == SHAPE["vocab_size"] > len(tokenizer)
        critic = load_score_model(run.critic.reward_critic_model_name_or_path)
        assert critic.config.hidden_size == 256
        seen.append(run)
        return stand_in(1.0)(target, path, world_size=world_size, timeout=timeout)

    monkeypatch.setattr(check, "run_ranks", look)
    check_memory(parsed, read_job(parsed, device="cpu"), LAYOUT)
    run = seen[0]
    assert run.generation.min_dec_len == run.generation.max_dec_len == 16
    # The 8 rows of the first iteration make two updates; the third is the one of the second iteration.
    assert run.training.max_steps == 3
    assert (run.parallel.sharding, run.parallel.offload_level) == (("stage1",), ("optimizer",))
    assert not run.training.bf16 and not run.engine.use_fusemt


class _Seen(Exception):
    """Carries the arguments of a trial, which is not run."""


def _trial_of(parsed, job, monkeypatch):
    """Return the arguments with which ``check_memory`` would run ``job``, and their job."""

    def look(target, path, *, world_size, timeout):
        run = parse_ppo_arguments([path])
        raise _Seen(run, read_job(run, device="cpu"))

    monkeypatch.setattr(check, "run_ranks", look)
    monkeypatch.setattr(check, "load_core", lambda: "there")
    with pytest.raises(_Seen) as seen:
        check_memory(parsed, job, Layout())
    return seen.value.args


def _differences(job, other):
    """Return the fields in which two jobs differ, but for the models, whose tokens of the trial are its own."""
    fields = {field.name for field in dataclasses.fields(job)} - {"policy", "critic", "reward", "cost", "cost_critic"}
    return {name for name in fields if getattr(job, name) != getattr(other, name)}


@pytest.mark.parametrize(("preset", "algorithm"), [(name, key) for name, table in PRESETS.items() for key in table])
def test_the_run_keeps_what_a_preset_sets(tmp_path, monkeypatch, preset, algorithm):
    """All that counts for memory: an iteration of the trial is one pass over its responses."""
    for name in ("policy", "reward"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(SHAPE))
    needs_group = algorithm != "ppo" and "num_return_sequences" not in PRESETS[preset][algorithm]
    given = {
        "train_datasets": "packing-prompts/train",
        "actor_model_name_or_path": str(tmp_path / "policy"),
        "reward_model_name_or_path": str(tmp_path / "reward"),
        "output_dir": str(tmp_path / "output"),
        "max_length": 600,
        "rl_algorithm": algorithm,
        "preset": preset,
        **({"num_return_sequences": 2} if needs_group else {}),
    }
    parsed = share_global_batches(parse_ppo_arguments(given), batch_ranks=1)
    monkeypatch.setattr(check, "_refuse_small_machine", lambda needed: None)
    job = read_job(parsed, device="cpu")
    run, trial = _trial_of(parsed, job, monkeypatch)
    assert _differences(job, trial) <= {"update_iters"}
    assert run.on_policy.rl_algorithm == algorithm
    of_loss = {"kl_coeff", "kl_loss_coeff"} & parsed.as_dict().keys()
    assert {key: run.as_dict()[key] for key in of_loss} == {key: parsed.as_dict()[key] for key in of_loss}


@pytest.mark.parametrize("changes", [{"use_ema": True}, {"use_adaptive_entropy": True}])
def test_the_run_has_the_average_and_the_entropy_that_are_planned(parsed, monkeypatch, changes):
    values = {key: value for key, value in parsed.as_dict().items() if parsed.given(key)}
    parsed = parse_ppo_arguments({**values, "sharding": "", "bf16": False, "fp16_opt_level": "O1", **changes})
    job = read_job(parsed, device="cpu")
    _, trial = _trial_of(parsed, job, monkeypatch)
    assert _differences(job, trial) == set()


def test_the_run_of_an_algorithm_without_critic_has_none(parsed, monkeypatch):
    seen = []

    def look(target, path, *, world_size, timeout):
        seen.append((parse_ppo_arguments([path]), sorted(p.name for p in Path(path).parent.iterdir() if p.is_dir())))
        return stand_in(1.0)(target, path, world_size=world_size, timeout=timeout)

    monkeypatch.setattr(check, "run_ranks", look)
    chosen = parsed.as_dict() | {"rl_algorithm": "grpo", "num_return_sequences": 2, "kl_loss_coeff": 0.0}
    keys = ("actor_model_name_or_path", "reward_model_name_or_path", "rl_algorithm", "num_return_sequences")
    argv = [part for key in (*keys, "kl_loss_coeff") for part in (f"--{key}", str(chosen[key]))]
    grpo = parse_ppo_arguments([*argv, "--train_datasets", "p", "--output_dir", "o", "--max_dec_len", "16"])
    check_memory(grpo, read_job(grpo, device="cpu"), LAYOUT)
    run, folders = seen[0]
    assert (run.on_policy.rl_algorithm, run.algorithm.kl_loss_coeff) == ("grpo", 0.0)
    assert folders == ["policy", "reward"]


@pytest.mark.parametrize(
    ("trainer", "changes", "folders"),
    [
        ("sft", {}, ["policy"]),
        ("rm", {"objective": "cost"}, ["reward"]),
        ("dpo", {"loss_type": ("exo_pair", "sft"), "loss_weights": (1.0, 0.5), "label_smoothing": 0.1}, ["policy"]),
        ("dpo", {"loss_type": ("simpo",)}, ["policy"]),
        ("dpo", {"ref_model_name_or_path": "reward"}, ["policy", "reference"]),
        ("dpo", {"reference_free": True}, ["policy"]),
        ("kd", {"teacher_model_name_or_path": "reward", "teacher_offload": True}, ["policy", "teacher"]),
    ],
)
def test_the_run_of_an_offline_trainer_makes_two_updates(parsed, tmp_path, monkeypatch, trainer, changes, folders):
    given = {"train_datasets": "d", "model_name_or_path": "policy", "output_dir": "o", "max_length": 48, **changes}
    (tmp_path / "own.json").write_text(json.dumps(given))
    parsed = TRAINERS[trainer].parse([str(tmp_path / "own.json")])
    job, seen = read_offline_job(trainer, parsed, device="cpu"), []

    def look(target, path, name, prompt, *, world_size, timeout):
        assert (target, name, prompt, world_size) == ("alignment.planner.trial:run_offline_trial", trainer, 1, 1)
        run, root = TRAINERS[name].parse([path]), Path(path).parent
        assert read_offline_job(trainer, run, device="cpu").models.keys() == job.models.keys()
        seen.append((run, sorted(p.name for p in root.iterdir() if p.is_dir())))
        memory = phase_memory(job, Layout(), lambda m: m.everywhere)
        return [{phase: Peak(m.on_device, m.everywhere + PROCESS_BYTES) for phase, m in memory.items()}]

    monkeypatch.setattr(check, "run_ranks", look)
    monkeypatch.setattr(check, "load_core", lambda: "there")
    assert check_memory(parsed, job, Layout()) == 0
    run, written = seen[0]
    assert written == folders and Path(run.offline.model_name_or_path).name == folders[0]
    assert (run.training.max_steps, run.data.max_length) == (2, 48)
    kept = {key: value for key, value in changes.items() if not key.endswith("model_name_or_path")}
    assert kept.items() <= run.as_dict().items()


def test_a_reference_in_a_server_is_not_compared_with_one_in_the_processes(parsed):
    values = {key: value for key, value in parsed.as_dict().items() if parsed.given(key)}
    served = parse_ppo_arguments({**values, "reference_server": "http://127.0.0.1:1"})
    job = read_job(served, device="cpu")
    assert not job.has_reference
    with pytest.raises(UserError, match="--check runs without servers, .*: leave out reference_server"):
        check_memory(served, job, LAYOUT)


def test_a_machine_that_is_too_small_is_not_tried(parsed, monkeypatch, tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 1000 kB\nMemAvailable:    1000 kB\n")
    monkeypatch.setattr(check, "_MEMORY", meminfo)
    with pytest.raises(UserError, match=r"--check needs about 0\.\d GiB on this machine, and 0\.0 GiB are free"):
        check_memory(parsed, read_job(parsed, device="cpu"), LAYOUT)
