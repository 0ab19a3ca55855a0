"""The balancing loss of a trained model's experts, measured over a whole update."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle

from alignment.metrics import Metric
from alignment.models.decoder.balancing import ExpertBalance, balancing_loss, load_statistics, loss_slopes
from alignment.parallel.runner import ModelRunner
from alignment.parallel.topology import Topology
from alignment.records import TokenBatch


class BalancingLoss:
    """Adds the balancing loss of ``runner``'s model to what it is trained on, and measures it."""

    def __init__(self, name: str, runner: ModelRunner, topology: Topology) -> None:
        """``name`` of the model begins the names of metrics; its decoder gets an ``ExpertBalance``."""
        decoder = runner.model.model
        config = decoder.config
        decoder.balance = ExpertBalance(config.experts, config.num_hidden_layers)
        self._balance: ExpertBalance = decoder.balance
        self._layers = [number for number in range(config.num_hidden_layers) if config.has_experts(number)]
        self._name, self._runner, self._topology = name, runner, topology

    def begin(self, batches: Sequence[TokenBatch], coefficient: float) -> None:
        """Prepare for the gradients of an update's micro-batches, which are to get those of ``coefficient`` times the
        loss; unless it is 0, their routing is counted first.

        All processes call it.
        """
        self._balance.clear()
        if not coefficient:
            return
        self._balance.is_counting = True
        try:
            self._runner.forward(batches, _touch)
        finally:
            self._balance.is_counting = False
        self._balance.slopes = loss_slopes(self._totals()[0], _count_tokens(batches), coefficient)

    def finish(self, batches: Sequence[TokenBatch]) -> dict[str, Metric]:
        """Return the loss without its coefficient, and statistics of the experts' loads; all processes call it."""
        counts, probabilities = self._totals()
        loss = balancing_loss(counts, probabilities, _count_tokens(batches))
        found = {"balancing_loss": loss, **load_statistics(counts)}
        return {f"{self._name}/{name}": Metric(value, "last") for name, value in found.items()}

    def _totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Return counts [L, E] and sums of probabilities [L, E] over all processes."""
        own = np.stack([self._balance.counts, self._balance.probabilities])
        topology = self._topology
        if topology.world_size > 1:
            tensor = topology.world.sum_(paddle.to_tensor(own, "float64"), "loads of experts")
            own = tensor.numpy() / topology.tensor.size
        return own[0, self._layers], own[1, self._layers]


def _touch(model, batch: TokenBatch) -> np.ndarray:
    """Run all layers for ``batch``; the results do not matter."""
    model.model.at(batch, np.zeros(1, np.int64), np.zeros(1, np.int64))
    return np.zeros(1)


def _count_tokens(batches: Sequence[TokenBatch]) -> int:
    return sum(int(batch.lengths.sum()) for batch in batches)
