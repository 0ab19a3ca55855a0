"""The loop of every trainer that trains on a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from alignment.loops.session import Session
from alignment.loops.shared_prompts import count_samples
from alignment.metrics import Metric, merge_metrics
from alignment.parallel.micro_batches import MicroBatches
from alignment.parallel.runner import ModelRunner, Objective
from alignment.records import TokenBatch
from alignment.training.learner import Learner


class Measure(Protocol):
    """Adds fields to all micro-batches of an update from passes of the trained model, without gradients, before it."""

    def __call__(
        self, batches: Sequence[TokenBatch], policy: ModelRunner, order: Sequence[int], *, learns: bool
    ) -> None:
        """``order``: the place of each row's sample in the update, which does not depend on how micro-batches are cut.

        ``learns`` (training): what it keeps from update to update may change.
        """
        ...


Renew = Callable[[list[dict[str, Any]], Learner, ModelRunner], tuple[list[dict[str, Any]], dict[str, Metric]]]
"""Called with the samples of an update, the model's learner, and its runner without gradients; returns the samples that
are trained on instead, and metrics."""


@dataclass(frozen=True, kw_only=True)
class SupervisedTask:
    """What distinguishes one trainer from another."""

    make_batch: Callable[[Sequence[dict[str, Any]]], TokenBatch]
    """Makes model input from the samples of a micro-batch."""
    make_objective: Callable[[Sequence[TokenBatch]], Objective]
    """Makes the objective, with its global denominators, from all micro-batches of an update."""
    renew: Renew | None = None
    """None: updates train on the samples of the data."""
    prepare: Callable[[Sequence[TokenBatch], ModelRunner], None] | None = None
    """Called with the micro-batches of an update and the model's runner before training on them, to add fields from
    other models.
    """
    preparing: str = "update"
    """The stage that the time of ``prepare`` and ``measure`` is attributed to."""
    measure: Measure | None = None
    """Called after ``prepare``, to add fields that compare all rows of an update. None: the objective needs none."""
    after_update: Callable[[Learner], None] | None = None
    """Called with the model's learner after each update."""


@dataclass(frozen=True, kw_only=True)
class SupervisedLoop:
    """All parts of a run; ``run`` reads top to bottom."""

    samples: Iterator[tuple[list[dict[str, Any]], bool]]
    """(samples of one update, whether they end an epoch)."""
    micro_batches: MicroBatches
    task: SupervisedTask
    learner: Learner
    runner: ModelRunner
    """Runs the learner's model without gradients."""
    session: Session
    shares_tokens: bool = False
    """Whether rows share the tokens they begin with."""

    def run(self) -> None:
        """Train until the session's last update."""
        for given, epoch_ended in self.samples:
            samples, sampling = self._renew(given)
            groups = self.micro_batches.divide(*count_samples(samples, shares=self.shares_tokens))
            batches = [self.task.make_batch([samples[i] for i in group]) for group in groups]
            with self.session.stage(self.task.preparing):
                if self.task.prepare is not None:
                    self.task.prepare(batches, self.runner)
                if self.task.measure is not None:
                    self.task.measure(batches, self.runner, list(chain.from_iterable(groups)), learns=True)
            with self.session.stage("update"):
                objective = self.task.make_objective(batches)
                metrics = self.learner.accumulate(batches, objective)
                metrics.append(self.learner.apply())
                if self.task.after_update is not None:
                    self.task.after_update(self.learner)
            self.session.timer.count("update", tokens=sum(int(batch.lengths.sum()) for batch in batches))
            self.session.advance(merge_metrics(metrics) | sampling, updates=1, epoch_ended=epoch_ended)
            if self.session.is_finished:
                break

    def _renew(self, samples: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Metric]]:
        if self.task.renew is None:
            return samples, {}
        with self.session.stage("rollout"):
            return self.task.renew(samples, self.learner, self.runner)
