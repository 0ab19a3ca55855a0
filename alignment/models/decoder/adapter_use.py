"""How the forward passes of a model use its adapter: on or off, and with which dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import paddle

from alignment.ops.addressed_dropout import token_keys


class AdapterUse(NamedTuple):
    """How one forward pass uses the adapter."""

    is_on: bool = True
    """Whether the adapter takes part; without it the model is its base."""
    dropout_keys: paddle.Tensor | None = None
    """Keys [M] of the tokens for the adapter's dropout (``ops.addressed_dropout``); None: nothing is dropped."""

    def at(self, rows: paddle.Tensor) -> AdapterUse:
        """Return the use for the tokens ``rows`` [T] int64 of the M."""
        return self if self.dropout_keys is None else self._replace(dropout_keys=paddle.gather(self.dropout_keys, rows))


ADAPTED = AdapterUse()


@dataclass(slots=True, kw_only=True)
class AdapterState:
    """What decides how the next forward passes of a model use its adapter."""

    dropout: float
    """The rate of dropout in training."""
    seed: int
    update: int = 0
    """The number of updates made: masks of dropout are drawn anew for each."""
    is_on: bool = True
    """Whether forward passes use the adapter."""

    def use(self, ids: np.ndarray, lengths: np.ndarray, *, training: bool) -> AdapterUse:
        """Return the use in a pass over right-padded rows ``ids`` [n, S] of ``lengths`` [n]."""
        if not (training and self.is_on and self.dropout):
            return AdapterUse(self.is_on)
        keys = token_keys(ids, lengths, seed=self.seed, update=self.update)
        return AdapterUse(dropout_keys=paddle.to_tensor(keys))
