"""A model that learns: accumulate gradients, apply one update, hand out weights and state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import paddle

from alignment.errors import NumericalError
from alignment.parallel.runner import ModelRunner, Objective
from alignment.records import TokenBatch
from alignment.telemetry.metrics import Metric
from alignment.training.optimizers import NamedAdamW, clip_by_global_norm
from alignment.training.schedules import Schedule


class Learner:
    """Owns one trained model's optimizer and schedule; ``name`` (policy, critic, ...) appears in messages."""

    def __init__(
        self, name: str, runner: ModelRunner, *, optimizer: NamedAdamW, schedule: Schedule, max_grad_norm: float
    ) -> None:
        self.name = name
        self.runner = runner
        self.num_updates = 0
        self._optimizer = optimizer
        self._schedule = schedule
        self._max_grad_norm = max_grad_norm

    def accumulate(self, batches: Sequence[TokenBatch], objective: Objective) -> list[dict[str, Metric]]:
        """Add the gradients of ``objective`` over ``batches``; return the metrics of each."""
        metrics = self.runner.forward_backward(batches, objective)
        for part in metrics:
            for key, metric in part.items():
                if not math.isfinite(float(metric.value)):
                    raise self._not_finite(key, float(metric.value))
        return metrics

    def apply(self) -> dict[str, Metric]:
        """Clip, step the optimizer and clear the gradients; return the gradient norm before and the learning rate."""
        norm = clip_by_global_norm(self._optimizer.parameters, self._max_grad_norm)
        if not math.isfinite(norm):
            raise self._not_finite("gradient norm", norm)
        learning_rate = self._schedule.learning_rate(self.num_updates)
        self._optimizer.step(learning_rate)
        self.num_updates += 1
        return {f"{self.name}/gradient_norm": Metric(norm), f"{self.name}/learning_rate": Metric(learning_rate)}

    def _not_finite(self, what: str, value: float) -> NumericalError:
        return NumericalError(
            f"{self.name} {what} is {value} at update {self.num_updates + 1}, which was not applied (learning rate "
            f"{self._schedule.learning_rate(self.num_updates):g}). Lower the learning rate, or look for extreme rows "
            "in the data; earlier checkpoints are untouched"
        )

    def weights(self) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield every parameter under its canonical name."""
        yield from self.runner.model.named_parameters()

    def state(self) -> dict[str, np.ndarray]:
        """Return the optimizer's state by canonical name, with the number of updates."""
        return {**self._optimizer.state(), "num_updates": np.array([self.num_updates], np.int64)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what ``state`` returned."""
        self.num_updates = int(state["num_updates"][0])
        self._optimizer.load_state({key: value for key, value in state.items() if key != "num_updates"})
