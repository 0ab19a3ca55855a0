"""Describe a run that learns from a dataset as a ``Job``: one trained model, and the frozen one that the loss needs."""

from __future__ import annotations

from pathlib import Path

from alignment.architecture.decoder_config import DecoderConfig
from alignment.arguments.parsed import Parsed
from alignment.errors import ArgumentError
from alignment.fields import show_value
from alignment.models.config import CONFIG_FILE
from alignment.ops.pieces import divergence_tensors
from alignment.planner.job import Job, plan_adapters, planned_batches, read_shape
from alignment.runs.offline.models import JUDGE, POLICY
from alignment.runs.offline.objective import OfflineObjective
from alignment.trainers.objectives import objective_of

UPDATE, REFERENCE, TEACHER = "update", "reference", "teacher"
"""Phases, as the supervised loop names them."""


def read_offline_job(trainer: str, parsed: Parsed, *, device: str) -> Job:
    """Return the job of a run of the offline ``trainer``; only config.json of each model is read (see ``read_job``).

    All rows are assumed to have ``max_length`` tokens, all of them targets but the first; of a comparison only the last
    one is. Evaluation and the pass before training of ``precompute_ref_logprobs`` are not included.
    """
    objective, training, length = objective_of(trainer, parsed), parsed.training, parsed.data.max_length
    _refuse_frozen(parsed)
    samples, micro_batches = planned_batches(training, length * objective.rows_per_sample)
    rows = samples * objective.rows_per_sample
    shape = _starting_shape(parsed, objective)
    is_language_model = objective.model in (POLICY, JUDGE)
    compares, taught = _keeps_reference(parsed, objective), objective.needs_teacher
    is_away = (compares and parsed.reference.ref_offload) or (taught and parsed.teacher.teacher_offload)
    is_own_base = compares and parsed.adapter.lora and parsed.reference.ref_model_name_or_path is None
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
        divergence_tensors=divergence_tensors(parsed.loss.beta, parsed.loss.temperature) if taught else 0,
        phases=(*([REFERENCE] if compares else []), *([TEACHER] if taught else []), UPDATE),
        passes=_passes(parsed, objective, compares=compares, taught=taught),
        half=training.weight_dtype(device) == "bfloat16",
        length=length,
        response=objective.targets_per_row or length - 1,
        rows_per_batch=rows,
        logprob_rows=rows,
        value_rows=rows,
        reward_rows=rows,
        micro_batches=micro_batches,
        max_tokens=training.token_budget(length * objective.rows_per_sample),
        iteration_rows=rows * micro_batches,
        recompute=training.recompute_granularity if training.recompute else "",
        offloaded=parsed.parallel.offloaded | ({"freeze_model"} if is_away else set()),
        native=training.use_native_ops and device == "cpu",
    )


def _refuse_frozen(parsed: Parsed) -> None:
    """Refuse a run that trains only what is above a frozen decoder, which needs far less than would be counted."""
    for key, value in (("objective", "gating"), ("train_head_only", True)):
        if getattr(parsed.offline, key, None) == value:
            raise ArgumentError(
                f"{key}={show_value(value)}: plan counts no runs whose model is frozen below what they train; they "
                "need the weights once, and little more than a forward pass"
            )


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
    """Return the shape of the model in the folder ``name``, of the first suitable model if it is a run's output folder,
    or of the hub's model of that name.
    """
    folder = Path(name).expanduser()
    places = [folder, *(folder / part for part in objective.model.parts)]
    return read_shape(str(next((place for place in places if (place / CONFIG_FILE).is_file()), name)), key)
