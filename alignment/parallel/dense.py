"""The whole model in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle

from alignment.parallel.runner import Objective
from alignment.records import TokenBatch
from alignment.telemetry.metrics import Metric


class DenseRunner:
    """Runs a model that is not split (see ``ModelRunner``)."""

    def __init__(self, model: paddle.nn.Layer) -> None:
        self.model = model

    def forward(self, batches: Sequence[TokenBatch], read: Callable[[Any, TokenBatch], Any]) -> list[Any]:
        """See ``ModelRunner.forward``; a tuple from ``read`` gives a tuple of arrays."""
        self.model.eval()
        with paddle.no_grad():
            return [_to_host(read(self.model, batch)) for batch in batches]

    def forward_backward(self, batches: Sequence[TokenBatch], objective: Objective) -> list[dict[str, Metric]]:
        """See ``ModelRunner.forward_backward``."""
        self.model.train()
        metrics = []
        for batch in batches:
            loss = objective.loss(objective.read(self.model, batch), batch)
            loss.value.backward()
            metrics.append(loss.metrics)
        # Only now: reading a number makes the host wait for the device.
        return [{key: m._replace(value=_to_host(m.value)) for key, m in part.items()} for part in metrics]


def _to_host(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_to_host, value))
    return np.asarray(value.detach().astype("float32").numpy()) if isinstance(value, paddle.Tensor) else value
