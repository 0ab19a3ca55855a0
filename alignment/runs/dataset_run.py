"""A run that trains on a dataset, shared by all offline objectives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignment.data.loader import BatchLoader
from alignment.device.memory import MemoryWatch
from alignment.loops.evaluation import Evaluation
from alignment.loops.session import Counters, Hooks
from alignment.loops.shared_prompts import count_samples
from alignment.loops.supervised import SupervisedLoop, SupervisedTask
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.micro_batches import MicroBatches
from alignment.parallel.runner import ModelRunner
from alignment.runs.assembly import (
    Horizon,
    build_best,
    build_learner,
    build_session,
    build_stop,
    divide_updates,
    loader_part,
    stream_batches,
)
from alignment.runs.finish import finish_run
from alignment.runs.launch import Launch
from alignment.runs.placed import model_writer, scoring_runner
from alignment.runs.state import RunState, StatePart
from alignment.telemetry import log
from alignment.telemetry.wording import counted
from alignment.training.checkpoint import ModelWriter


@dataclass(frozen=True, kw_only=True)
class DatasetRun:
    """The parts of a run; ``name`` is the model's folder under ``output_dir``."""

    launch: Launch
    title: str
    name: str
    model: Any
    tokenizer: Tokenizer
    loader: BatchLoader
    """Yields the samples of one update after the other; see ``build_loader``."""
    rows_per_sample: int = 1
    """Rows of the model's input per sample: 2 for a pair."""
    task: SupervisedTask
    make_evaluation: Callable[[ModelRunner], Callable[[], Evaluation]] | None
    """Makes the evaluation from the trained model's runner; None without evaluation data."""
    best_metric: str
    shown: tuple[str, ...]
    """Metrics in the progress display."""
    cards: tuple[str, ...]
    """Evaluation metrics at the top of the report."""
    parts: dict[str, StatePart]
    kept: Mapping[str, ModelWriter] = field(default_factory=dict)
    """Models besides the trained one that a checkpoint must hold, by folder."""

    def train(self, *, memory: MemoryWatch | None = None) -> None:
        """Train (or only evaluate), export and report; ``memory`` replaces the default memory watch."""
        training = self.launch.parsed.training
        loader, micro_batches = self.loader, micro_batches_of(self.launch, self.rows_per_sample)
        if micro_batches.max_tokens is not None:
            micro_batches.check(count_samples(loader.samples, shares=self._shares)[0], "training row")
        horizon = horizon_of(self.launch, loader)
        learner = build_learner(self.launch, self.name, self.model, training, total_updates=horizon.total_updates)
        state = RunState(
            store=self.launch.store,
            models={self.name: model_writer(learner, self.tokenizer, self.launch.topology)},
            learners={self.name: learner},
            kept=self.kept,
            counters=Counters(),
            parts={"samples": loader_part(loader), **self.parts},
        )
        if self.launch.checkpoint is not None:
            state.restore(self.launch.checkpoint)
        evaluate = self.make_evaluation(scoring_runner(learner)) if self.make_evaluation else None
        best = build_best(training, default=self.best_metric, keep=state.keep_best)
        session = build_session(
            self.launch,
            title=self.title,
            model=self.name,
            horizon=horizon,
            hooks=Hooks(
                evaluate=evaluate,
                save=state.save,
                best=best,
                stop=build_stop(training, default=self.best_metric),
            ),
            counters=state.counters,
            shown=self.shown,
        )
        session.memory = memory or session.memory
        with contextlib.closing(session.writers):
            if training.do_train and not session.is_finished:
                state.check_space()
                log.info(self._describe(horizon, loader, micro_batches))
                loop = SupervisedLoop(
                    samples=stream_batches(loader),
                    micro_batches=micro_batches,
                    task=self.task,
                    learner=learner,
                    runner=scoring_runner(learner),
                    session=session,
                    shares_tokens=self._shares,
                )
                with self.launch.signals.deferred("the current update"), session.progress:
                    loop.run()
            finish_run(self.launch, session, state, title=self.title, cards=self.cards)

    @property
    def _shares(self) -> bool:
        return self.model.model.shares_tokens

    def _describe(self, horizon: Horizon, loader: BatchLoader, micro_batches: MicroBatches) -> str:
        packed = "" if micro_batches.max_tokens is None else f", {micro_batches.describe()}"
        return f"{self.title}: {counted(horizon.total_updates, 'update')} of {loader.describe_batches()}{packed}"


def micro_batches_of(launch: Launch, rows_per_sample: int) -> MicroBatches:
    """Return how the updates of a run are divided, whose samples have ``rows_per_sample`` rows each."""
    training = launch.parsed.training
    budget = training.token_budget(rows_per_sample * launch.parsed.data.max_length)
    return divide_updates(training, budget, ranks=launch.topology.layout.batch)


def build_loader(launch: Launch, samples: Sequence[Any]) -> BatchLoader:
    """Return the loader of encoded samples; a ``TokenizedDataset`` counts the rows that are left out of every epoch."""
    training = launch.parsed.training
    own = training.per_device_train_batch_size * training.gradient_accumulation_steps
    return BatchLoader(
        samples,
        batch_size=own * launch.topology.layout.batch,
        seed=training.seed if training.data_seed is None else training.data_seed,
        shuffle=launch.parsed.data.dataloader_shuffle,
        drop_last=launch.parsed.data.dataloader_drop_last,
    )


def horizon_of(launch: Launch, loader: BatchLoader) -> Horizon:
    """Return the length of a run on the training rows of ``loader``."""
    return Horizon.of(launch.parsed.training, loader.batches_per_epoch, "train_datasets")
