"""Describe a run that learns from a dataset as a ``Job``: one trained model, and the frozen one that the loss needs."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

from alignment.architecture.adapter import HEAD
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import GATING
from alignment.arguments.parsed import Parsed
from alignment.models.decoder.forest import LEAST_SHARE
from alignment.models.decoder.score_model import ScoreOptions
from alignment.ops.pieces import divergence_tensors
from alignment.planner.job import Job
from alignment.planner.reading import plan_adapters, planned_batches, read_shape
from alignment.runs.offline.joined import MOST_JOINED
from alignment.runs.offline.models import JUDGE, POLICY
from alignment.runs.offline.objective import OfflineObjective
from alignment.trainers.objectives import objective_of

ROLLOUT, UPDATE, REFERENCE, TEACHER = "rollout", "update", "reference", "teacher"
"""Phases, as the supervised loop names them."""


def read_offline_job(trainer: str, parsed: Parsed, *, device: str, prompt: int = 1) -> Job:
    """Return the job of a run of the offline ``trainer``; only config.json of each model is read (see ``read_job``).

    All rows are assumed to have ``max_length`` tokens, the first ``prompt`` of them the prompt, which the rows of a
    sample share, and the others targets; of a comparison only the last one is. Evaluation and the pass before training
    of ``precompute_ref_logprobs`` are not included.
    """
    objective, training, length = objective_of(trainer, parsed), parsed.training, parsed.data.max_length
    samples, micro_batches = offline_batches(parsed, objective, prompt, device=device)
    rows = samples * objective.rows_per_sample
    shape = _starting_shape(parsed, objective)
    is_language_model = objective.model in (POLICY, JUDGE)
    compares, taught = _keeps_reference(parsed, objective), objective.needs_teacher
    is_away = (compares and parsed.reference.ref_offload) or (taught and parsed.teacher.teacher_offload)
    is_own_base = compares and parsed.adapter.lora and parsed.reference.ref_model_name_or_path is None
    own = {"response": objective.targets_per_row or length - prompt} | (_distillation(parsed, device) if taught else {})
    return Job(
        trainer=trainer,
        policy=shape if is_language_model else None,
        critic=None,
        reward=None if is_language_model else shape,
        has_reference=compares and not is_own_base,
        adapters=plan_adapters(parsed, {"policy" if is_language_model else "reward": shape}),
        four_bit=parsed.adapter.load_in_4bit,
        own_reference=_reference_shape(parsed, objective) if compares else None,
        teacher=_teacher_shape(parsed, objective) if taught else None,
        **own,
        **_trained_part(parsed, shape),
        smooths_labels=trainer == "sft" and parsed.loss.label_smoothing > 0,
        phases=_phases(parsed, compares=compares, taught=taught),
        passes=_passes(parsed, objective, compares=compares, taught=taught),
        half=training.weight_dtype(device) == "bfloat16",
        length=length,
        rows_per_batch=rows,
        logprob_rows=rows,
        value_rows=rows,
        reward_rows=rows,
        micro_batches=micro_batches,
        max_tokens=training.token_budget(length * objective.rows_per_sample),
        iteration_rows=rows * micro_batches,
        group_size=objective.rows_per_sample,
        shares=training.share_prefixes is not False,
        shared_prompt=prompt,
        **_reference_passes(parsed, objective, micro_batches, shape),
        recompute=training.recompute_granularity if training.recompute else "",
        offloaded=parsed.parallel.offloaded | ({"freeze_model"} if is_away else set()),
        native=training.use_native_ops and device == "cpu",
    )


def offline_batches(parsed: Parsed, objective: OfflineObjective, prompt: int, *, device: str) -> tuple[int, int]:
    """Return (samples per micro-batch, micro-batches per update); the rows of a sample share ``prompt`` tokens."""
    length, others = parsed.data.max_length, objective.rows_per_sample - 1
    shares = prompt * LEAST_SHARE >= length and _shares_tokens(parsed, _starting_shape(parsed, objective), device)
    return planned_batches(parsed.training, length * (others + 1), shared=prompt * others * shares)


def _shares_tokens(parsed: Parsed, shape: DecoderConfig, device: str) -> bool:
    """Return whether rows of a model of ``shape`` share the tokens they begin with on ``device``."""
    training, adapters = parsed.training, plan_adapters(parsed, {"policy": shape})
    drops = any(adapter.dropout > 0 for adapter in adapters.values())
    native = training.use_native_ops and device == "cpu"
    return training.share_prefixes is not False and native and not drops and shape.experts is None


def _reference_passes(
    parsed: Parsed, objective: OfflineObjective, micro_batches: int, shape: DecoderConfig
) -> dict[str, int]:
    """Return ``joined`` and ``reference_group``: how the reference reads the rows of an update."""
    loss, training = parsed.groups.get("loss"), parsed.training
    twice = objective.labels is not None and objective.labels.baseline_rows(loss) == "mismatched"
    group = {"reference_group": 2} if twice else {}
    is_apart = objective.read_for(loss) is not objective.read or training.recompute or training.packing_samples
    if objective.needs_reference is None or is_apart or training.max_tokens_per_batch is not None:
        return group
    batches = micro_batches * (1 + twice)
    most = min(MOST_JOINED, shape.num_hidden_layers)
    return {"joined": ceil(batches / ceil(batches / most)), **group}


def _phases(parsed: Parsed, *, compares: bool, taught: bool) -> tuple[str, ...]:
    """Return the phases of an update."""
    samples = taught and parsed.loss.lmbda > 0
    return (*[ROLLOUT] * samples, *[REFERENCE] * compares, *[TEACHER] * taught, UPDATE)


def _distillation(parsed: Parsed, device: str) -> dict[str, Any]:
    """Return what a distillation adds to a job: the layout of the teacher, and the engine that samples answers."""
    loss, engine, longest = parsed.loss, parsed.engine, parsed.data.max_length - 1
    trained, degree = parsed.training.weight_dtype(device), parsed.teacher.teacher_tensor_parallel_degree
    answer = min(parsed.teacher.max_dec_len or longest, longest)
    return {
        "teacher_tensor": degree if degree > 0 else None,
        "divergence_tensors": divergence_tensors(loss.beta, loss.temperature),
        "is_scaled": loss.temperature != 1.0,
        "sampled_share": loss.lmbda,
        "answer": answer if loss.lmbda else None,
        # The rows of the data have longer answers, if any update is made on them.
        **({"response": answer} if loss.lmbda == 1 else {}),
        "side_by_side": parsed.training.per_device_eval_batch_size,
        "eval_mode": parsed.parallel.eval_mode,
        "rollout_tensor": parsed.parallel.rollout_tensor_parallel_degree,
        "fused": engine.use_fusemt,
        "on_gpu": device == "gpu",
        "rollout_weight_type": engine.rollout_weight_type or trained,
        "rollout_kv_type": engine.rollout_kv_type or trained,
        "rollout_kv_memory": engine.rollout_kv_memory,
    }


def _trained_part(parsed: Parsed, shape: DecoderConfig) -> dict[str, Any]:
    """Return what is trained above a frozen decoder, and the sizes of what is there."""
    source = parsed.offline
    if getattr(source, "objective", None) == "gating":
        labels = ScoreOptions.from_dict(shape.raw).num_labels
        sizes = (shape.head_width, *[source.gating_hidden_size] * source.gating_num_layers, labels)
        return {"trained_part": GATING, "score_head": {"num_labels": labels, "gating_sizes": sizes}}
    if getattr(source, "train_head_only", False):
        return {"trained_part": HEAD, "score_head": {"num_labels": max(1, len(source.attributes))}}
    return {}


def _passes(parsed: Parsed, objective: OfflineObjective, *, compares: bool, taught: bool) -> tuple[str, ...]:
    """Return the roles that run before each update: frozen models, and the policy where a whole update is measured."""
    loss = parsed.groups.get("loss")
    baseline = objective.labels and objective.labels.baseline_rows(loss)
    surveys = objective.make_survey is not None and objective.make_survey(loss) is not None
    rows = 2 if baseline == "mismatched" else 1
    before = ("reference",) * (rows * compares) + ("teacher",) * taught
    return before + ("policy",) * (bool(baseline) + surveys)


def _keeps_reference(parsed: Parsed, objective: OfflineObjective) -> bool:
    """Return whether a reference is in memory during training."""
    if objective.needs_reference is None or not objective.needs_reference(parsed.groups.get("loss")):
        return False
    return not parsed.reference.precompute_ref_logprobs


def _starting_shape(parsed: Parsed, objective: OfflineObjective) -> DecoderConfig:
    source = parsed.offline
    if source.model_name_or_path:
        return _read(source.model_name_or_path, "model_name_or_path", objective)
    place = Path(source.model_config_name_or_path).expanduser()
    folder = place.parent if place.is_file() else place
    return _read(str(folder), "model_config_name_or_path", objective)


def _reference_shape(parsed: Parsed, objective: OfflineObjective) -> DecoderConfig | None:
    """Return the shape of a separate reference; None: it is the model that training starts from."""
    named = parsed.reference.ref_model_name_or_path
    return _read(named, "ref_model_name_or_path", objective) if named else None


def _teacher_shape(parsed: Parsed, objective: OfflineObjective) -> DecoderConfig:
    return _read(parsed.teacher.teacher_model_name_or_path, "teacher_model_name_or_path", objective)


def _read(name: str, key: str, objective: OfflineObjective) -> DecoderConfig:
    return read_shape(name, key, objective.model.parts)
