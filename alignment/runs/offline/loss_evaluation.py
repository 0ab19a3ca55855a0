"""Evaluation by the loss: the metrics that training reports, over all held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import paddle

from alignment.data.encoded.tokenized import Sample
from alignment.loops.evaluation import Evaluation
from alignment.loops.supervised import SupervisedTask
from alignment.metrics import reduce_metrics
from alignment.parallel.runner import ModelRunner
from alignment.runs.offline.objective import EvaluationInputs

_BATCHES_AT_ONCE = 16
"""Micro-batches of a process whose numbers of other models are in memory together."""


@dataclass(frozen=True, kw_only=True)
class LossEvaluation:
    """The metrics of an objective on held-out samples, with denominators over all of them."""

    task: SupervisedTask
    runner: ModelRunner
    samples: Sequence[Sample]
    rows_per_batch: int
    batches_at_once: int
    name: str
    """The objective's name, which is removed from metric names."""

    @classmethod
    def of(cls, inputs: EvaluationInputs) -> LossEvaluation:
        """Return the evaluation of any objective."""
        return cls(
            task=inputs.task,
            runner=inputs.runner,
            samples=inputs.held_out,
            rows_per_batch=inputs.rows_per_batch,
            batches_at_once=_BATCHES_AT_ONCE * inputs.launch.topology.layout.batch,
            name=inputs.objective.name,
        )

    def __call__(self) -> Evaluation:
        """Return ``eval/loss`` and the other metrics of the loss; no sample rows."""
        size = self.rows_per_batch
        batches = [self.task.make_batch(self.samples[i : i + size]) for i in range(0, len(self.samples), size)]
        objective = self.task.make_objective(batches)
        found, at_once = [], len(batches) if self.task.measure else self.batches_at_once
        for first in range(0, len(batches), at_once):
            part = batches[first : first + at_once]
            if self.task.prepare is not None:
                self.task.prepare(part, self.runner)
            if self.task.measure is not None:
                self.task.measure(part, self.runner, range(len(self.samples)), learns=False)
            outputs = self.runner.forward(part, objective.read)
            pairs = zip(map(_tensors, outputs), part, strict=True)
            found += [objective.loss(*pair).metrics for pair in pairs]
        metrics = reduce_metrics(found)
        return {f"eval/{key.removeprefix(f'{self.name}/')}": number for key, number in metrics.items()}, []


def _tensors(output: Any) -> Any:
    return tuple(map(_tensors, output)) if isinstance(output, tuple) else paddle.to_tensor(output)
