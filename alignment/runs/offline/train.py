"""Train any offline objective, from the launch to the exported model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from alignment.algorithms.preference.spec import Survey
from alignment.data.encoded.tokenized import Sample, TokenizedDataset
from alignment.data.loader import BatchLoader
from alignment.loops.supervised import Measure, SupervisedTask
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.runner import ModelRunner, Objective
from alignment.records import Loss, TokenBatch
from alignment.runs.adapters import adapt, frozen_base
from alignment.runs.changed_arguments import ARGUMENTS, arguments_part
from alignment.runs.dataset_run import DatasetRun, build_loader, horizon_of, micro_batches_of
from alignment.runs.datasets import (
    dataset_labels,
    encode_options,
    open_dataset,
    register_user_datasets,
    report_ledgers,
    split_for_evaluation,
)
from alignment.runs.frozen import FROZEN, FrozenInput, frozen_part, frozen_tokenizer
from alignment.runs.launch import Launch
from alignment.runs.models import adopt, check_start, starting_folder, starting_tokenizer
from alignment.runs.offline.labelled import (
    Baseline,
    baseline_of,
    check_labels,
    labelled_batch,
    mismatched,
    open_baseline,
)
from alignment.runs.offline.moving_reference import REFERENCE
from alignment.runs.offline.objective import EvaluationInputs, OfflineObjective, TrainedModel
from alignment.runs.offline.own_answers import open_own_answers
from alignment.runs.offline.reference import Reference, ReferenceSource, find_reference, open_reference
from alignment.runs.offline.teacher import find_teacher, open_teacher
from alignment.runs.state import StatePart
from alignment.training.learner import Learner
from alignment.training.objectives import fields_as_tensors

SURVEY = "survey"
"""Part of the checkpoint with what the survey of updates has learned."""


def train_offline(launch: Launch, objective: OfflineObjective) -> None:
    """Train ``objective`` as the arguments say: load data and model, update, evaluate, export."""

    def open_samples(tokenizer: Tokenizer) -> tuple[TokenizedDataset, TokenizedDataset | None]:
        rows, held_out = open_rows(launch, objective.dataset, tokenizer)
        if objective.check_rows is not None:
            objective.check_rows(launch, rows)
        return rows, held_out

    build_run(launch, objective, open_samples).train()


def build_run(
    launch: Launch,
    objective: OfflineObjective,
    open_samples: Callable[[Tokenizer], tuple[Sequence[Any], Sequence[Any] | None]],
) -> DatasetRun:
    """Return the run that trains ``objective`` on the result of ``open_samples``; see ``open_rows``."""
    source, trained = launch.parsed.offline, objective.model
    folder = starting_folder(launch, source, trained.name, parts=trained.parts)
    tokenizer = starting_tokenizer(launch, folder)
    check_start(launch, source, folder, tokenizer)
    hyperparameters = launch.parsed.groups.get("loss")
    reference, taught = find_compared(launch, objective, folder, tokenizer)
    base = frozen_base(launch, trained.name, folder)
    frozen = frozen_part(launch, lambda: [*base, *find_frozen(launch, [reference, taught], tokenizer)])
    rows, held_out = open_samples(tokenizer)
    loader = build_loader(launch, rows)
    baseline = find_baseline(launch, objective, loader, rows, held_out)
    model = load_trained(launch, trained, folder, tokenizer, base)
    if objective.settle_model is not None:
        objective.settle_model(launch, model, rows)
    samples = [rows, held_out or ()]
    ahead = rows_ahead(launch, baseline, loader, held_out) if baseline else ()
    held = open_reference(launch, objective, tokenizer, reference, samples, model, ahead) if reference else None
    held = open_teacher(launch, taught, tokenizer, model).as_reference() if taught else held
    survey = objective.make_survey and objective.make_survey(hyperparameters)
    measure = None if survey is None else surveying(survey, objective.read_for(hyperparameters))
    task = build_task(objective, hyperparameters, model=model, reference=held, measure=measure)
    if baseline:
        task = measure_baseline(launch, objective, task, baseline=baseline, reference=held, model=model)
    if taught:
        task = replace(task, renew=open_own_answers(launch, model, tokenizer, loader.batch_size, taught.num_ids))

    def make_evaluation(runner: ModelRunner) -> Any:
        fixed = {"launch": launch, "objective": objective, "task": task, "tokenizer": tokenizer}
        return objective.make_evaluation(EvaluationInputs(**fixed, runner=runner, **evaluation_rows(rows, held_out)))

    return DatasetRun(
        launch=launch,
        title=objective.title,
        name=trained.name,
        model=model,
        tokenizer=tokenizer,
        loader=loader,
        rows_per_sample=objective.rows_per_sample,
        task=task,
        make_evaluation=make_evaluation if held_out is not None else None,
        best_metric=objective.best_metric,
        shown=(*objective.shown, f"{trained.name}/gradient_norm", f"{trained.name}/learning_rate"),
        cards=objective.cards,
        parts={ARGUMENTS: arguments_part(launch.parsed), FROZEN: frozen, **survey_part(survey)},
        kept={REFERENCE: held.moving.write} if held and held.moving else {},
    )


def evaluation_rows(rows: Sequence[Sample], held_out: Sequence[Sample]) -> dict[str, Any]:
    """Return the samples of an evaluation, as ``EvaluationInputs`` has them."""
    return {
        "held_out": list(held_out),
        "datasets": dataset_labels(held_out),
        "training": [rows[i] for i in range(min(len(rows), len(held_out)))],
    }


def find_compared(
    launch: Launch, objective: OfflineObjective, folder: str | None, tokenizer: Tokenizer
) -> tuple[ReferenceSource | None, ReferenceSource | None]:
    """Return the reference and the teacher of the model in ``folder``, as far as the loss needs them."""
    needs = objective.needs_reference
    compares = needs is not None and needs(launch.parsed.groups.get("loss"))
    return (
        find_reference(launch, objective, tokenizer) if compares else None,
        find_teacher(launch, folder, tokenizer) if objective.needs_teacher else None,
    )


def load_trained(
    launch: Launch, trained: TrainedModel, folder: str | None, tokenizer: Tokenizer, base: Sequence[FrozenInput]
) -> Any:
    """Return the model to train from ``folder``, with an adapter if it has a frozen ``base``."""
    model = trained.load(launch, folder, tokenizer)
    adopt(launch, model, tokenizer)
    if base:
        resumed = trained.name if launch.checkpoint is not None else None
        adapt(launch, trained.name, model, base[0], folder=resumed, continues=True)
    return model


def find_baseline(
    launch: Launch,
    objective: OfflineObjective,
    loader: BatchLoader,
    rows: Sequence[Sample],
    held_out: Sequence[Sample] | None,
) -> Baseline | None:
    """Return the baseline of a loss on labelled answers, if it has one, after checking the labels of the rows."""
    if objective.labels is None:
        return None
    baseline = baseline_of(objective.labels, launch.parsed.groups["loss"])
    trained = rows if launch.parsed.training.do_train else ()
    check_labels(trained, held_out, baseline=baseline, loader=loader)
    return baseline


def measure_baseline(
    launch: Launch,
    objective: OfflineObjective,
    task: SupervisedTask,
    *,
    baseline: Baseline,
    reference: Reference,
    model: Any,
) -> SupervisedTask:
    """Return ``task`` with the measure of ``baseline``, which adds the reference's numbers if it has other rows."""
    cut, longest = micro_batches_of(launch, objective.rows_per_sample), launch.parsed.data.max_length
    passes = {"cut": cut, "joining": reference.joining, "shares": model.model.shares_tokens}
    measure = open_baseline(objective, baseline, reference.prepare, max_length=longest, **passes)
    return replace(task, measure=measure, prepare=None if baseline.rows == "mismatched" else task.prepare)


def rows_ahead(
    launch: Launch, baseline: Baseline, loader: BatchLoader, held_out: Sequence[Sample] | None
) -> Iterator[TokenBatch]:
    """Yield the mismatched rows of the whole run, of its updates and of its evaluations."""
    if baseline.rows != "mismatched":
        return
    training = launch.parsed.training
    updates: Iterable[list[Sample]] = ()
    if training.do_train:
        updates = loader.preview(horizon_of(launch, loader).total_updates)
    size = training.per_device_eval_batch_size
    for samples in chain(updates, [list(held_out)] if held_out else []):
        batches = [labelled_batch(samples[i : i + size]) for i in range(0, len(samples), size)]
        yield from mismatched(batches, range(len(samples)), launch.parsed.data.max_length)


def find_frozen(launch: Launch, models: Sequence[ReferenceSource | None], tokenizer: Tokenizer) -> list[FrozenInput]:
    """Return the inputs that must not change: the frozen ``models``, and the tokenizer if the arguments name one."""
    named = launch.parsed.model.tokenizer_name_or_path
    own = frozen_tokenizer(named, tokenizer, launch.parsed.data.template) if named else []
    return [*(model.frozen() for model in models if model and model.frozen), *own]


def surveying(survey: Survey, read: Callable[[Any, TokenBatch], Any]) -> Measure:
    """Return ``survey`` as what measures an update: it gets what ``read`` returns for the trained model."""

    def measure(batches: Sequence[TokenBatch], policy: ModelRunner, _: Sequence[int], *, learns: bool) -> None:
        survey(batches, policy.forward(batches, read), learns=learns)

    return measure


def survey_part(survey: Survey | None) -> dict[str, StatePart]:
    """Return what ``survey`` has learned, as a part of the checkpoint; empty without a survey."""
    return {} if survey is None else {SURVEY: StatePart(survey.state, survey.load_state)}


def open_rows(
    launch: Launch, kind: type[TokenizedDataset], tokenizer: Tokenizer
) -> tuple[TokenizedDataset, TokenizedDataset | None]:
    """Return the encoded training and held-out rows (None: no evaluation), and report their ledgers."""
    source, parsed = launch.parsed.offline, launch.parsed
    register_user_datasets(launch)
    options = encode_options(launch, max_prompt_length=parsed.data.max_prompt_len, targets=source.targets)
    rows = open_dataset(launch, kind, source.train_datasets, tokenizer, options)
    wanted = source.eval_datasets if parsed.training.evaluates else None
    held_out = open_dataset(launch, kind, wanted, tokenizer, options, role="eval") if wanted else None
    rows, held_out = split_for_evaluation(launch, rows, held_out)
    report_ledgers(launch, {"train": rows, "eval": held_out})
    return rows, held_out


def build_task(
    objective: OfflineObjective,
    hyperparameters: Any,
    *,
    model: Any,
    reference: Reference | None = None,
    measure: Measure | None = None,
) -> SupervisedTask:
    """Return the task that trains ``model`` on ``objective``, compared with ``reference``; ``measure`` adds what its
    loss needs to know of a whole update.
    """

    read = objective.read_for(hyperparameters)

    def make_objective(batches: Sequence[TokenBatch]) -> Objective:
        denominator = objective.count(batches)

        def loss(output: Any, batch: TokenBatch) -> Loss:
            fields = fields_as_tensors(batch)
            return objective.loss(output, fields=fields, hyperparameters=hyperparameters, denominator=denominator)

        return Objective(reference and reference.read or read, loss, probe=read)

    after, moving = objective.after_update, reference and reference.moving

    def after_update(learner: Learner) -> None:
        if after is not None:
            after(model, learner.runner)
        if moving is not None:
            moving.follow(learner)

    return SupervisedTask(
        make_batch=objective.make_batch,
        make_objective=make_objective,
        prepare=reference and reference.prepare,
        preparing=reference.stage if reference else "update",
        measure=measure,
        after_update=after_update,
    )
