"""Train a model: accumulate gradients, apply updates, provide weights and state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import paddle

from alignment.architecture.parts import Part
from alignment.device.offload import Offloaded, resident
from alignment.errors import NumericalError, diverged
from alignment.metrics import Metric
from alignment.models.decoder.adapter_use import AdapterState
from alignment.parallel.comms.group import ALONE
from alignment.parallel.runner import ModelRunner, Objective
from alignment.parallel.sharding.partition import ParameterShards
from alignment.records import TokenBatch
from alignment.training.expert_balance import BalancingLoss
from alignment.training.gradient_norm import clip_factor, gradient_norm, norm_of_squares, sum_gradient_squares
from alignment.training.optimizers import NamedAdamW
from alignment.training.schedules import Schedule


class Learner:
    """The optimizer and schedule of one trained model; ``name`` (policy, critic, ...) appears in messages.

    With several processes all of them must call every method.
    """

    def __init__(
        self,
        name: str,
        runner: ModelRunner,
        *,
        optimizer: NamedAdamW,
        schedule: Schedule,
        max_grad_norm: float,
        shards: ParameterShards | None = None,
    ) -> None:
        """``shards`` reduce gradients and publish weights in a layout; the optimizer must have their ``parameters``.

        None: a single process, whose optimizer updates the model's own parameters.
        """
        self.name = name
        self.runner = runner
        self.num_updates = 0
        self.offloaded_model: Offloaded | None = None
        """Weights and gradients, if they are kept in host memory between uses; see ``offload``."""
        self.offloaded_optimizer: Offloaded | None = None
        """Moments and masters, likewise."""
        self._optimizer = optimizer
        self.schedule = schedule
        self._max_grad_norm = max_grad_norm
        self._latest: tuple[TokenBatch, Objective] | None = None
        self._shards = shards
        self._world = ALONE if shards is None else shards.topology.world
        self.rate_factor = 1.0
        """Factor of the schedule's learning rates."""
        self.balancing: BalancingLoss | None = None
        """What balances and measures the experts of the model; None: it has none."""
        self.aux_loss_coef = 0.0
        """The factor of the balancing loss of these experts."""
        self.adapter: AdapterState | None = None
        """The state of the model's adapter, if it has one; it is told the number of updates."""

    def offload(self, *, model: bool, optimizer: bool) -> None:
        """Keep the model's weights or the optimizer's state in host memory between uses from now on.

        All methods load what they need. Callers of several methods, or of the model itself, can wrap them in
        ``resident(learner.offloaded_model, learner.offloaded_optimizer)`` to move the data only once.
        """
        if model:
            self.offloaded_model = Offloaded(f"{self.name} model", self._model_tensors)
        if optimizer:
            self.offloaded_optimizer = Offloaded(f"{self.name} optimizer", self._optimizer_tensors)

    def accumulate(self, batches: Sequence[TokenBatch], objective: Objective) -> list[dict[str, Metric]]:
        """Accumulate the gradients of ``objective`` over ``batches``; return the metrics of each batch."""
        self._latest = (batches[0], objective) if batches else self._latest
        if self.adapter is not None:
            self.adapter.update = self.num_updates
        with resident(self.offloaded_model):
            if self.balancing is not None and batches:
                self.balancing.begin(batches, self.aux_loss_coef)
            metrics = self.runner.forward_backward(batches, objective)
            if self.balancing is not None and batches:
                metrics = [*metrics, self.balancing.finish(batches)]
        self._check_finite([(key, float(m.value)) for part in metrics for key, m in part.items()])
        return metrics

    def apply(self) -> dict[str, Metric]:
        """Clip and apply the gradients, then clear them; return the norm before clipping and the learning rate."""
        with resident(self.offloaded_model, self.offloaded_optimizer):
            norm = self._reduce()
            self._check_finite([("gradient norm", norm)])
            learning_rate = self.rate_factor * self.schedule.learning_rate(self.num_updates)
            self._optimizer.step(learning_rate, gradient_scale=clip_factor(norm, self._max_grad_norm))
            if self._shards is not None:
                self._shards.publish()
        self.num_updates += 1
        return {
            f"{self.name}/gradient_norm": Metric(norm),
            f"{self.name}/learning_rate": Metric(learning_rate, "last"),
        }

    def follow(self) -> None:
        """Count an update of other ranks, where this process holds nothing of the model."""
        self.num_updates += 1

    def discard(self) -> None:
        """Clear the accumulated gradients without applying them."""
        with resident(self.offloaded_model):
            if self._shards is not None:
                self._shards.finish_gradients()
            self._optimizer.clear()

    def check_outputs(self) -> None:
        """Raise NumericalError if the weights give non-finite outputs for a micro-batch of the last update.

        No later update would detect that after the last update of a run. All processes call it.
        """
        if self._latest is None:
            return
        batch, objective = self._latest
        with resident(self.offloaded_model):
            outputs = self.runner.forward([batch], objective.probe or objective.read)[0]
        for array in outputs if isinstance(outputs, tuple) else (outputs,):
            if array is not None and not np.isfinite(array).all():
                raise self.diverged("its outputs are NaN or infinite", "the last one: it was not exported")

    def diverged(self, found: str, consequence: str) -> NumericalError:
        """Return the error for weights ruined by the last update; ``found`` says what is wrong with them."""
        rate = self.rate_factor * self.schedule.learning_rate(max(0, self.num_updates - 1))
        when = f"after update {self.num_updates} (learning rate {rate:g}), {consequence}"
        return diverged(self.name, found, when, num_updates=self.num_updates)

    def _reduce(self) -> float:
        """Reduce the gradients over all processes and return their norm."""
        if self._shards is None:
            return gradient_norm(self._optimizer.parameters)
        self._shards.finish_gradients()
        return norm_of_squares(self._shards.squared_norm(sum_gradient_squares), self._optimizer.parameters)

    def _check_finite(self, values: Sequence[tuple[str, float]]) -> None:
        """Raise NumericalError on all processes for the first value that is not finite on one of them."""
        mine = next(((what, value) for what, value in values if not math.isfinite(value)), None)
        if self._world.size == 1 and mine is None:
            return
        found = self._world.max_(paddle.to_tensor([float(mine is not None)]), "is all finite")
        if not found.item():
            return
        everyones = self._world.gather_objects(mine, "what is not finite")
        what, value = next(one for one in everyones if one is not None)
        rate = self.rate_factor * self.schedule.learning_rate(self.num_updates)
        when = f"at update {self.num_updates + 1}, which was not applied (learning rate {rate:g})"
        raise diverged(self.name, f"{what} is {value}", when, num_updates=self.num_updates)

    def weights(self) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield every parameter that this process holds, by canonical name."""
        with resident(self.offloaded_model):
            if self._shards is None:
                yield from self.runner.model.named_parameters()
            else:
                with self._shards.gathered():
                    yield from self._shards.local_weights().items()

    def kept_weights(self) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield the weights that stay in memory between uses, by canonical name: in stage 3 only rows."""
        yield from self.runner.model.named_parameters() if self._shards is None else self._shards.kept_weights()

    def kept_parts(self) -> dict[str, Part] | None:
        """Return the parts of the whole tensors that ``kept_weights`` are, None if they are not sharded."""
        return None if self._shards is None else self._shards.kept_parts

    def state(self) -> dict[str, np.ndarray]:
        """Return the optimizer's state by canonical name, and the number of updates."""
        with resident(self.offloaded_optimizer):
            return {**self._optimizer.state(), "num_updates": np.array([self.num_updates], np.int64)}

    def state_parts(self) -> dict[str, Part]:
        """Return the parts of the whole tensors that this process's moments and masters in ``state`` are, by name."""
        return self._optimizer.state_parts()

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what ``state`` returned."""
        self.num_updates = int(state["num_updates"][0])
        with resident(self.offloaded_optimizer):
            self._optimizer.load_state({key: value for key, value in state.items() if key != "num_updates"})

    def _model_tensors(self) -> Iterator[tuple[str, paddle.Tensor]]:
        if self._shards is None:
            for name, parameter in self.runner.model.named_parameters():
                yield name, parameter
                if parameter.grad is not None:
                    yield f"{name}/gradient", parameter.grad
        else:
            yield from self._shards.kept_weights()
            yield from self._shards.held_gradients()

    def _optimizer_tensors(self) -> Iterator[tuple[str, paddle.Tensor]]:
        yield from self._optimizer.named_tensors()
        if self._shards is not None:
            yield from self._shards.updated_copies()
