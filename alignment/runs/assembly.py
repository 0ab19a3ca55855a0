"""Build the parts that every trainer shares from the arguments: learner, cadences, session, data streams."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import paddle

from alignment.arguments.keys.training import TrainingArguments
from alignment.data.loader import BatchLoader
from alignment.device.memory import MemoryWatch
from alignment.errors import DataError
from alignment.loops.cadence import Cadence, Cadences
from alignment.loops.early_stopping import EarlyStopping
from alignment.loops.session import BestModel, Counters, Hooks, Session
from alignment.metrics import evaluated_name
from alignment.parallel.build_runner import build_runner
from alignment.parallel.micro_batches import MicroBatches
from alignment.runs.launch import Launch
from alignment.runs.placed import AbsentRunner, shard_model
from alignment.runs.resume import remove_replaced
from alignment.runs.state import StatePart
from alignment.telemetry import log
from alignment.telemetry.progress import Progress
from alignment.telemetry.timing import StageTimer
from alignment.telemetry.wording import counted
from alignment.telemetry.writers import SilentWriters, open_writers
from alignment.training.expert_balance import BalancingLoss
from alignment.training.learner import Learner
from alignment.training.optimizers import AdamSettings, NamedAdamW
from alignment.training.schedules import Schedule, warmup_updates


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """The length of a run in updates."""

    total_updates: int
    updates_per_epoch: float

    @classmethod
    def of(
        cls, training: TrainingArguments, updates_per_epoch: float, what: str, *, updates_at_once: int = 1
    ) -> Horizon:
        """Return the horizon given by ``max_steps`` or ``num_train_epochs``; an epoch without updates is refused.

        ``updates_at_once`` updates share their rows (those of a rollout); epochs are rounded up to a multiple of them.
        """
        if updates_per_epoch <= 0:
            raise DataError(f"{what}: an epoch has no update: too few usable rows for one batch (see the ledger)")
        # Rounded, because 0.1 * 30 is 3.0000000000000004.
        rounds = math.ceil(round(training.num_train_epochs * updates_per_epoch / updates_at_once, 9))
        by_epochs = rounds * updates_at_once
        return cls(
            total_updates=training.max_steps if training.max_steps > 0 else by_epochs,
            updates_per_epoch=updates_per_epoch,
        )


def build_learner(launch: Launch, name: str, model: Any, training: TrainingArguments, *, total_updates: int) -> Learner:
    """Return the learner of ``model``, with learning rate, decay and warm-up from ``training``."""
    warmup = warmup_updates(total_updates, warmup_steps=training.warmup_steps, warmup_ratio=training.warmup_ratio)
    if training.do_train and total_updates <= warmup and training.lr_scheduler_type != "constant":
        ratio = "critic_warmup_ratio" if name.endswith("critic") else "warmup_ratio"
        log.warn(
            f"{name}: the learning rate rises from 0 over {counted(warmup, 'update')}, and the run has "
            f"{counted(total_updates, 'update')}: it never reaches {training.learning_rate:g}. For a shorter warm-up "
            f"lower {'warmup_steps' if training.warmup_steps > 0 else ratio}"
        )
    schedule = Schedule(
        kind=training.lr_scheduler_type,
        peak=training.learning_rate,
        floor=training.min_learning_rate or 0.0,
        warmup_updates=warmup,
        decay_updates=training.decay_steps or total_updates,
    )
    adam = AdamSettings(
        beta1=training.adam_beta1,
        beta2=training.adam_beta2,
        epsilon=training.adam_epsilon,
        weight_decay=training.weight_decay,
    )
    model.model.recompute = training.recompute
    model.model.recompute_granularity = training.recompute_granularity
    topology = launch.ranks_of(name).topology
    shards = None if topology is None else shard_model(model, topology)
    if shards is None:
        optimizer = NamedAdamW(dict(model.named_parameters()), adam)
    else:
        optimizer = NamedAdamW(shards.parameters, adam, parts=shards.parts, masters=shards.masters)
    learner = Learner(
        name,
        AbsentRunner(model) if topology is None else build_runner(model, topology),
        optimizer=optimizer,
        schedule=schedule,
        max_grad_norm=training.max_grad_norm,
        shards=shards,
    )
    learner.adapter = model.model.adapter
    learner.aux_loss_coef = training.aux_loss_coef
    if model.config.experts is None and training.aux_loss_coef:
        log.warn(f"{name}: aux_loss_coef={training.aux_loss_coef:g} has no effect, the model has no experts")
    if model.config.experts is not None and topology is not None and not model.model.is_frozen:
        learner.balancing = BalancingLoss(name, learner.runner, topology)
    offloaded = launch.parsed.parallel.offloaded
    learner.offload(model="train_model" in offloaded, optimizer="optimizer" in offloaded)
    return learner


def divide_updates(training: TrainingArguments, max_tokens: int | None, *, ranks: int) -> MicroBatches:
    """Return how updates are divided into micro-batches over ``ranks`` processes with different rows."""
    return MicroBatches(rows=training.per_device_train_batch_size, max_tokens=max_tokens, ranks=ranks)


def build_cadences(training: TrainingArguments) -> Cadences:
    """Return the cadences of logging, evaluating and saving."""
    return Cadences(
        log=Cadence(strategy="steps", every=training.logging_steps),
        evaluate=Cadence(strategy=training.evaluation_strategy, every=training.eval_interval),
        save=Cadence(strategy=training.save_strategy, every=training.save_steps),
    )


def build_best(training: TrainingArguments, *, default: str, keep: Callable[[], None]) -> BestModel | None:
    """Return how the best weights are chosen and kept, or None without ``load_best_model_at_end``."""
    if not training.load_best_model_at_end:
        return None
    metric, is_greater = deciding_metric(training, default)
    return BestModel(metric=metric, greater_is_better=is_greater, keep=keep)


def build_stop(training: TrainingArguments, *, default: str) -> EarlyStopping | None:
    """Return when the run stops before its last update, or None without ``early_stopping``."""
    if not training.early_stopping:
        return None
    metric, is_greater = deciding_metric(training, default)
    return EarlyStopping(
        metric=metric,
        greater_is_better=is_greater,
        patience=training.early_stopping_patience,
        threshold=training.early_stopping_threshold,
    )


def deciding_metric(training: TrainingArguments, default: str) -> tuple[str, bool]:
    """Return the name of the metric that tells which weights are best, and whether more of it is better."""
    metric = f"eval/{evaluated_name(training.metric_for_best_model or default)}"
    greater = training.greater_is_better
    return metric, not metric.endswith("loss") if greater is None else greater


def build_session(
    launch: Launch,
    *,
    title: str,
    model: str,
    horizon: Horizon,
    hooks: Hooks,
    counters: Counters,
    shown: Sequence[str],
) -> Session:
    """Return the session that logs, evaluates and saves for a loop; ``counters`` come from the checkpoint, if any.

    The arguments are saved here, late, so that a run that is refused does not overwrite those of an earlier one.
    """
    training = launch.parsed.training
    if launch.topology.is_main:
        launch.parsed.save(launch.output_dir)
    if training.do_train and training.overwrite_output_dir:
        remove_replaced(launch.store, launch.checkpoint)
    enabled = launch.topology.is_main and not training.disable_tqdm
    synchronize = paddle.device.synchronize if launch.topology.device == "gpu" else None
    # A run that only evaluates appends to the records of the earlier run.
    resume_step = launch.resume_step if training.do_train else sys.maxsize
    writers = (
        open_writers(
            training.report_to,
            output_dir=launch.output_dir,
            run_name=launch.run_name,
            resume_step=resume_step,
            evaluates_again=counters.evaluated_at != resume_step,
        )
        if launch.topology.is_main
        else SilentWriters()
    )
    _warn_if_done(training, counters, horizon)
    return Session(
        total_updates=horizon.total_updates,
        cadences=build_cadences(training),
        hooks=hooks,
        writers=writers,
        timer=StageTimer(synchronize),
        memory=MemoryWatch.of(launch.topology.device),
        traffic=launch.topology.link and launch.topology.link.traffic,
        progress=Progress(horizon.total_updates, title, enabled=enabled, start=counters.updates),
        counters=counters,
        log_first=training.logging_first_step,
        model=model,
        shown=shown,
        signals=launch.signals,
        world=launch.topology.world,
        go_on="--resume_from_checkpoint true"
        + (" --overwrite_output_dir false" if training.overwrite_output_dir else ""),
    )


def _warn_if_done(training: TrainingArguments, counters: Counters, horizon: Horizon) -> None:
    """Warn if a run that was asked to train has nothing left to do."""
    if training.do_train and counters.updates >= horizon.total_updates:
        log.warn(f"nothing left to train: the checkpoint has {counters.updates} of {horizon.total_updates} updates")
    elif training.do_train and training.early_stopping and counters.is_stopped:
        log.warn(f"nothing left to train: early_stopping ended the run after update {counters.updates}")


def stream_batches(loader: BatchLoader) -> Iterator[tuple[list[Any], bool]]:
    """Yield (samples, whether they end an epoch), epoch after epoch."""
    for samples in loader.iterate():
        yield samples, loader.epoch_ended


def loader_part(loader: BatchLoader) -> StatePart:
    """Return the loader's position as part of the run's state."""
    return StatePart(loader.state_dict, loader.load_state_dict)
