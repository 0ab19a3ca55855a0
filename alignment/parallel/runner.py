"""How a workshop talks to a model, whatever the layout behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import paddle

from alignment.records import Loss, TokenBatch
from alignment.telemetry.metrics import Metric


class Objective(NamedTuple):
    """``read`` takes from the model what ``loss`` needs; both run where the model's last layer lives."""

    read: Callable[[Any, TokenBatch], Any]
    loss: Callable[[Any, TokenBatch], Loss]


class ModelRunner(Protocol):
    """A model in some layout."""

    model: paddle.nn.Layer

    def forward(self, batches: Sequence[TokenBatch], read: Callable[[Any, TokenBatch], Any]) -> list[np.ndarray]:
        """Return ``read(model, batch)`` for each batch as host arrays, without gradients."""
        ...

    def forward_backward(self, batches: Sequence[TokenBatch], objective: Objective) -> list[dict[str, Metric]]:
        """Accumulate gradients of the sum of the losses; losses were divided by global denominators already."""
        ...
