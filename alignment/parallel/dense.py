"""Run a model without pipeline stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle

from alignment.metrics import Metric
from alignment.parallel.runner import Objective, T, mark_filler, metrics_to_host, set_training, to_host
from alignment.parallel.shares import Shares
from alignment.parallel.topology import Topology
from alignment.records import TokenBatch


class DenseRunner:
    """Runs a model without pipeline stages (see ``ModelRunner``)."""

    def __init__(self, model: paddle.nn.Layer, topology: Topology | None = None) -> None:
        """Without a ``topology`` this is the only process."""
        self.model = model
        self._shares = Shares(topology)

    def forward(self, batches: Sequence[TokenBatch], read: Callable[[Any, TokenBatch], Any]) -> list[Any]:
        """See ``ModelRunner.forward``; a tuple from ``read`` gives a tuple of arrays."""
        set_training(self.model, False)
        with paddle.no_grad():
            outputs = []
            for index, batch in enumerate(self._shares.take(batches, "forward")):
                mark_filler(self.model, self._shares.is_filler(index))
                outputs.append(to_host(read(self.model, batch)))
            return self.share(outputs)

    def forward_backward(self, batches: Sequence[TokenBatch], objective: Objective) -> list[dict[str, Metric]]:
        """See ``ModelRunner.forward_backward``."""
        set_training(self.model, True)
        metrics = []
        for index, batch in enumerate(self._shares.take(batches, "forward and backward")):
            mark_filler(self.model, self._shares.is_filler(index))
            loss = objective.loss(objective.read(self.model, batch), batch)
            value = loss.value * 0 if self._shares.is_filler(index) else loss.value
            value.backward()
            metrics.append(loss.metrics)
        return self.share(metrics_to_host(metrics))

    def share(self, items: Sequence[T]) -> list[T]:
        """See ``ModelRunner.share``."""
        return self._shares.collect(items)
