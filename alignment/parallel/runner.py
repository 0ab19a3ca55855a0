"""How a workshop talks to a model, whatever the layout behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import paddle

from alignment.metrics import Metric
from alignment.records import Loss, TokenBatch

T = TypeVar("T")


class Objective(NamedTuple):
    """``read`` takes from the model what ``loss`` needs; both run where the model's last layer lives."""

    read: Callable[[Any, TokenBatch], Any]
    loss: Callable[[Any, TokenBatch], Loss]


class ModelRunner(Protocol):
    """A model in some layout.

    Micro-batches are those of all processes, the same list on each; what comes back is that of all of them too, in
    their order, on every process.
    """

    model: paddle.nn.Layer

    def forward(self, batches: Sequence[TokenBatch], read: Callable[[Any, TokenBatch], Any]) -> list[np.ndarray]:
        """Return ``read(model, batch)`` for each batch as host arrays, without gradients."""
        ...

    def forward_backward(self, batches: Sequence[TokenBatch], objective: Objective) -> list[dict[str, Metric]]:
        """Accumulate gradients of the sum of the losses; losses were divided by global denominators already.

        Each process has the gradients of its own micro-batches; they remain to be summed.
        """
        ...

    def share(self, items: Sequence[T]) -> list[T]:
        """Return one item for each micro-batch of the last call, given one for each that this process has run.

        Only the items of processes with the model's last layer count. For what a model keeps aside while it runs.
        """
        ...


def to_host(value: Any) -> Any:
    """Return a tensor as a float32 array, a tuple item by item, and anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(to_host, value))
    return np.asarray(value.detach().astype("float32").numpy()) if isinstance(value, paddle.Tensor) else value


def metrics_to_host(metrics: Sequence[dict[str, Metric]]) -> list[dict[str, Metric]]:
    """Return metrics with host numbers; call it last, because reading a number makes the host wait for the device."""
    return [{key: m._replace(value=to_host(m.value)) for key, m in part.items()} for part in metrics]
