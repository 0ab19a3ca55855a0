"""Compare a plan with measurements: run the trainer on this machine's CPU with random weights of the planned shapes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignment.architecture.config_rules import COMPARISON_KEY
from alignment.architecture.cuts import whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import GATING
from alignment.architecture.layout import Layout
from alignment.arguments.parsed import Parsed
from alignment.errors import UserError
from alignment.models.config import CONFIG_FILE
from alignment.models.folders.naming import is_transposed
from alignment.models.safetensors_io import TensorEntry, cut_files, file_names, write_files, write_index
from alignment.ops.native.library import load_core
from alignment.parallel.local_ranks import run_ranks
from alignment.planner.job import JUDGE, Job
from alignment.planner.machine import Machine
from alignment.planner.memory import phase_memory
from alignment.planner.placed.ranks import Seats, plan_ranks
from alignment.planner.tables import gib
from alignment.runs.degrees import describe_roles
from alignment.telemetry import log
from alignment.telemetry.tables import print_table

TOLERANCE = 0.1
"""The relative error allowed for a prediction."""
PROCESS_BYTES = int(0.2 * 2**30)
"""Resident memory of a process without its tensors, with Paddle 3.3 on a CPU: libraries, buffers, Python objects."""
_TOKENIZER = Path(__file__).resolve().parents[1] / "data" / "shipped" / "packing" / "tokenizer"
_GIB = 2**30
_TIMEOUT = 3600.0
_MEMORY = Path("/proc/meminfo")
_SPREAD = 0.02
_QUESTION = {
    COMPARISON_KEY: {
        "template": "{context} <eos> {response_A} <eos> {response_B}",
        "turn": "{content}",
        "letters": ["apple", "boots"],
    }
}
"""Makes a language model a pairwise one, in words of the shipped tokenizer."""
_KEPT = """
max_length per_device_prompt_batch_size num_return_sequences per_device_rollout_batch_size
per_device_logprob_batch_size per_device_value_batch_size per_device_reward_batch_size per_device_train_batch_size
gradient_accumulation_steps packing_samples max_tokens_per_batch recompute recompute_granularity critic_recompute
critic_recompute_granularity temperature
top_p top_k repetition_penalty rl_algorithm kl_coeff kl_loss_coeff entropy_coeff use_native_ops use_fusemt
share_prefixes rollout_weight_type rollout_kv_type rollout_kv_memory tensor_parallel_degree pipeline_parallel_degree
virtual_pp_degree sharding sharding_parallel_degree sequence_parallel eval_mode rollout_tensor_parallel_degree
offload_level seed objective loss_type loss_weights label_smoothing score_bias
normalize_score_during_training normalizer_type lora lora_rank lora_dropout
lora_target_modules load_in_4bit reference_free precompute_ref_logprobs attributes
teacher_offload beta teacher_tensor_parallel_degree max_dec_len per_device_eval_batch_size
use_rollout_routing_replay train_head_only gating_hidden_size gating_num_layers placement logprob_check_rows
use_ema use_adaptive_entropy
"""
"""Arguments that affect memory; the check sets all others itself."""


def check_memory(parsed: Parsed, job: Job, layout: Layout | Seats) -> int:
    """Run ``job`` (of ``parsed``, on a CPU) in processes of this machine; print prediction and measurement.

    ``layout`` may be a placement, whose ranks are compared one by one. Return 0 if every phase agrees within
    ``TOLERANCE``, else 1. UserError if this machine has too little memory.
    """
    rows = measure_memory(parsed, job, layout)
    where = f"the fullest of {layout.world_size} process(es)" if isinstance(layout, Layout) else "the ranks"
    print_table(f"GiB in {where}", COLUMNS, [_shown(row) for row in rows])
    drawn, scored = (job.saved_tokens(job.learner, job.rows_per_batch, trains=trains) for trains in (True, False))
    if drawn < scored:
        print(
            "an update's rows are drawn from a larger rollout: those with the same prompt share its tokens, which the "
            "prediction does not count (to compare without: --share_prefixes false)"
        )
    return 0 if all(row.fits for row in rows) else 1


class Measured(NamedTuple):
    """What a phase needs, in bytes."""

    phase: str
    what: str
    """``tensors`` or ``resident memory``."""
    predicted: int
    measured: int

    @property
    def difference(self) -> float:
        """The relative error of the prediction."""
        return self.predicted / self.measured - 1

    @property
    def fits(self) -> bool:
        """Whether it is within ``TOLERANCE``."""
        return abs(self.difference) <= TOLERANCE


def measure_memory(parsed: Parsed, job: Job, layout: Layout | Seats) -> list[Measured]:
    """Run ``job`` (of ``parsed``, on a CPU) in processes of this machine; return its needs by phase, for a placement
    also by rank.

    UserError if this machine has too little memory.
    """
    server = parsed.groups.get("reference_server")
    if server is not None and server.is_given:
        raise UserError("--check runs without servers, with the reference in its processes: leave out reference_server")
    has_kernels = load_core() is not None
    # Nothing is evaluated in the trial.
    judges = [role.removeprefix(JUDGE) for role in job.other_rewards if role.startswith(JUDGE)]
    if not isinstance(layout, Layout) and (apart := [name for name in judges if name in layout]):
        raise UserError(
            f"--check runs without second judges, and placement gives ranks to {', '.join(apart)}: leave "
            f"{'it' if len(apart) == 1 else 'them'} out, with ranks under the name reward"
        )
    rewards = {role: config for role, config in job.other_rewards.items() if not role.startswith(JUDGE)}
    built = {"native": job.native and has_kernels, "fused": job.fused and has_kernels}
    if job.generates and not job.is_on_policy:
        built["response"] = job.answer  # the trial samples the answers of every update
    job = dataclasses.replace(job, other_rewards=rewards, **built)
    predictions = _predict(job, layout)
    processes = sum(len(each.ranks) for each in predictions)
    _refuse_small_machine(sum(len(each.ranks) * max(each.resident.values()) for each in predictions))
    where = layout if isinstance(layout, Layout) else describe_roles(layout)
    log.info(f"two iterations of {where} on this machine's CPU, in float32 with random weights")
    with tempfile.TemporaryDirectory() as name:
        path = _write_run(Path(name), parsed, job)
        if job.is_on_policy:
            call = ("alignment.planner.trial:run_trial", str(path))
        else:
            call = ("alignment.planner.trial:run_offline_trial", str(path), job.trainer, job.shared_prompt)
        peaks = run_ranks(*call, world_size=processes, timeout=_TIMEOUT)
    return [
        Measured(f"{each.who}{phase}", what, size, max(peaks[rank][phase][index] for rank in each.ranks))
        for each in predictions
        for index, (what, predicted) in enumerate((("tensors", each.tensors), ("resident memory", each.resident)))
        for phase, size in predicted.items()
    ]


class _Prediction(NamedTuple):
    """The bytes of each phase in the fullest of some ranks."""

    who: str
    """What precedes the names of its phases."""
    ranks: Sequence[int]
    tensors: Mapping[str, int]
    resident: Mapping[str, int]


def _predict(job: Job, layout: Layout | Seats) -> list[_Prediction]:
    """Return the prediction for the fullest process of a layout, or for the ranks of a placement."""
    on_device, everywhere = attrgetter("on_device"), attrgetter("everywhere")
    if isinstance(layout, Layout):
        groups = {
            ("", tuple(range(layout.world_size))): [phase_memory(job, layout, m) for m in (on_device, everywhere)]
        }
    else:
        groups = {}
        for measure in (on_device, everywhere):
            for some in plan_ranks(job, layout, Machine(name="cpu", measure=measure)):
                for rank in some.ranks:
                    groups.setdefault((f"rank {rank} ", (rank,)), []).append(some.memory)
    return [
        _Prediction(
            who,
            ranks,
            {phase: moment.on_device for phase, moment in tensors.items()},
            {phase: moment.everywhere + PROCESS_BYTES for phase, moment in everything.items()},
        )
        for (who, ranks), (tensors, everything) in groups.items()
    ]


COLUMNS = ("phase", "what", "predicted", "measured", "difference", "")


def _shown(row: Measured) -> list[str]:
    sizes = [gib(size, places=3) for size in (row.predicted, row.measured)]
    return [row.phase, row.what, *sizes, f"{100 * row.difference:+.1f} %", "ok" if row.fits else "OFF"]


def _refuse_small_machine(needed: int) -> None:
    try:
        fields = dict(line.partition(":")[::2] for line in _MEMORY.read_text(encoding="ascii").splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return
    if needed > free:
        raise UserError(
            f"--check needs about {needed / _GIB:.1f} GiB on this machine, and {free / _GIB:.1f} GiB are free: check a "
            "smaller model, fewer processes (--gpus) or smaller batches"
        )


def _write_run(folder: Path, parsed: Parsed, job: Job) -> Path:
    """Write the models and the arguments of the run into ``folder``; return the path of the arguments."""
    # What a preset sets is kept too, since the trial has no preset.
    kept = [key for key in _KEPT.split() if parsed.origins.get(key, "default") != "default"]
    values = parsed.as_dict()
    given = {key: values[key] for key in kept}
    for role, config in job.models.items():
        if role != "reference" or job.own_reference is not None:
            own = _QUESTION if role in job.pairwise else _labels(job)
            options = {"score_type": role} if role == "cost" else own
            _write_model(folder / role, config, "causal" if job.is_language_model(role) else "score", options)
    own = {
        **(_on_policy_arguments(folder, job) if job.is_on_policy else _offline_arguments(folder, job)),
        "output_dir": str(folder / "output"),
        "chat_template": "tokenizer",
        "learning_rate": 1e-6,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "device": "cpu",
    }
    path = folder / "arguments.json"
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    path.write_text(json.dumps({**lists, **own}), encoding="utf-8")
    return path


def _on_policy_arguments(folder: Path, job: Job) -> dict[str, Any]:
    """Return the arguments for an iteration with full-length responses and one more update."""
    named = {
        "reward_critic_model_name_or_path": "critic",
        "cost_model_name_or_path": "cost",
        "cost_critic_model_name_or_path": "cost_critic",
    }
    scored = {key: str(folder / role) for key, role in named.items() if role in job.models}
    if job.other_rewards:
        rewards = {"reward_sources": json.dumps([_written_source(folder, job, role) for role in job.other_rewards])}
    elif job.reward is None:
        rewards = {"reward_function": "alignment.planner.trial:constant_reward"}
    else:
        rewards = {"reward_model_name_or_path": str(folder / "reward")}
    return {
        "train_datasets": "packing-prompts/train",
        "actor_model_name_or_path": str(folder / "policy"),
        **scored,
        **rewards,
        "max_dec_len": job.response,
        "min_dec_len": job.response,
        "max_steps": job.iteration_rows // (job.rows_per_batch * job.micro_batches) + 1,
        "ptx_coeff": 1.0 if job.with_ptx else 0.0,
        **_saved_passes(job),
    }


def _saved_passes(job: Job) -> dict[str, Any]:
    """Return the arguments that make or leave out the passes that the plan counts as made or left out."""
    own = {"use_rollout_logprobs": False} if job.checked_share == 1 else {}
    return own | ({} if job.values_from_update or job.critic is None else {"values_from_update": False})


def _written_source(folder: Path, job: Job, role: str) -> dict[str, Any]:
    own = {"batch_size": job.source_rows[role]} if role in job.source_rows else {}
    return {"name": str(folder / role), "log_as": role.removeprefix("reward-"), **own}


def _offline_arguments(folder: Path, job: Job) -> dict[str, Any]:
    """Return the arguments for two updates; the trial makes its own rows."""
    own = {"ref_model_name_or_path": str(folder / "reference")} if job.own_reference is not None else {}
    own |= {"teacher_model_name_or_path": str(folder / "teacher")} if job.teacher is not None else {}
    own |= {"lmbda": 1.0, "kd_coef": 1.0} if job.generates else {}
    own |= {"debias_length": None} if job.trained_part == GATING else {}  # all answers have one length
    start = {"model_name_or_path": str(folder / job.learner), "max_steps": 2}
    return {"train_datasets": "packing-sft/train", **start, **own}


def _labels(job: Job) -> dict[str, Any]:
    """Return the keys of config.json for the scores of a model with several."""
    count = job.score_head.get("num_labels", 1)
    return {"num_labels": count, "id2label": {str(i): f"score {i}" for i in range(count)}} if count > 1 else {}


def _write_model(folder: Path, config: DecoderConfig, kind: str, options: Mapping[str, Any]) -> None:
    """Write random weights of ``config`` with the tokenizer of the shipped data, which uses only the lowest ids.

    ``options`` are further keys of config.json.
    """
    folder.mkdir()
    for file in _TOKENIZER.iterdir():
        shutil.copy(file, folder)
    stops = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    (folder / CONFIG_FILE).write_text(json.dumps({**config.to_dict(), **stops, **options}), encoding="utf-8")
    head = {"num_labels": options.get("num_labels", 1)}
    shapes = {name: s[::-1] if is_transposed(name) else s for name, s in whole_shapes(config, kind, **head).items()}
    groups = cut_files([TensorEntry(name, np.dtype(np.float32), shape) for name, shape in shapes.items()])
    files = dict(zip(file_names(len(groups)), groups, strict=True))
    write_files(folder, files, _draw(groups))
    write_index(folder, files)


def _draw(groups: Sequence[Sequence[TensorEntry]]) -> Iterator[tuple[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    for entry in (entry for group in groups for entry in group):
        if len(entry.shape) == 1:
            values = np.full(entry.shape, float(entry.name.endswith("norm.weight")), np.float32)
        else:
            values = generator.standard_normal(entry.shape, np.float32) * np.float32(_SPREAD)
        yield entry.name, values
