"""The interface for running a model in any layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import paddle

from alignment.metrics import Metric
from alignment.records import Loss, TokenBatch

T = TypeVar("T")


class Objective(NamedTuple):
    """``read`` computes from the model what ``loss`` needs; both run in the process with the model's last layer."""

    read: Callable[[Any, TokenBatch], Any]
    loss: Callable[[Any, TokenBatch], Loss]
    probe: Callable[[Any, TokenBatch], Any] | None = None
    """Shows whether the weights give finite numbers, where ``read`` needs what only an update has; None: ``read``."""


class ModelRunner(Protocol):
    """A model in some layout.

    Every process passes the same list of all micro-batches and gets the results of all of them, in the same order.
    """

    model: paddle.nn.Layer

    def forward(self, batches: Sequence[TokenBatch], read: Callable[[Any, TokenBatch], Any]) -> list[np.ndarray]:
        """Return ``read(model, batch)`` for each batch as host arrays, without gradients."""
        ...

    def forward_backward(self, batches: Sequence[TokenBatch], objective: Objective) -> list[dict[str, Metric]]:
        """Accumulate the gradients of the sum of the losses, already divided by global denominators; return metrics.

        Each process gets the gradients of its own micro-batches; summing over processes is up to the caller.
        """
        ...

    def share(self, items: Sequence[T]) -> list[T]:
        """Gather ``items``, one per micro-batch this process ran, into one per micro-batch of the last call.

        Only the items of processes with the model's last layer count. For values a model records while it runs.
        """
        ...


def mark_filler(model: Any, is_filler: bool) -> None:
    """Tell ``model`` whether its next pass is over rows that count for nothing, for what it counts while it runs."""
    decoder = getattr(model, "model", None)
    for counter in (getattr(decoder, "balance", None), getattr(decoder, "replay", None)):
        if counter is not None:  # only models with experts count anything
            counter.is_filler = is_filler


def set_training(model: Any, is_training: bool) -> None:
    """Tell ``model`` and its decoder whether the next passes train; no other layer asks (``train()`` walks all)."""
    for layer in (model, getattr(model, "model", None)):
        if layer is not None and layer.training != is_training:
            layer.training = is_training


def to_host(value: Any) -> Any:
    """Return tensors as float32 arrays, also inside a tuple, and anything else unchanged."""
    if isinstance(value, tuple):
        return tuple(map(to_host, value))
    return np.asarray(value.detach().astype("float32").numpy()) if isinstance(value, paddle.Tensor) else value


def metrics_to_host(metrics: Sequence[dict[str, Metric]]) -> list[dict[str, Metric]]:
    """Return metrics with host numbers; call this last, because reading a number waits for the device."""
    return [{key: m._replace(value=to_host(m.value)) for key, m in part.items()} for part in metrics]
