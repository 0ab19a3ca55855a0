"""Bytes of gradients, their sums and their communication buffers, by sharding stage.

A single process with float32 weights leaves gradients where the backward pass puts them. In all other cases they are
taken out of the model one by one and summed in float32 (``parallel.sharding.gradients``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from alignment.architecture.layout import Layout
from alignment.parallel.sharding import message_cuts
from alignment.planner.counts.operators import FLOAT
from alignment.planner.counts.shapes import Held, count_layers

_SQUARE_BYTES = 2 * 8
"""A number and its square in float64, for the norm."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Gradients that are reduced together during the backward pass (sharding stages 2 and 3)."""

    pending: int
    """Bytes when its last gradient has been computed: all gradients and the buffers of the first message."""
    layers: int
    """Number of layers."""
    last: int
    """Elements of its last unit, whose weights are whole until the last gradient has come."""


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """The gradients of one trained model in one process."""

    held: Held
    layout: Layout
    item: int
    """Bytes of a weight."""

    @cached_property
    def are_taken(self) -> bool:
        """Whether gradients are taken out of the model; not if a single process updates float32 weights in place."""
        return self.layout.world_size > 1 or self.item < FLOAT

    @cached_property
    def _is_cut_early(self) -> bool:
        return self.layout.sharding > 1 and self.layout.sharding_stage >= 2

    @cached_property
    def between_batches(self) -> int:
        """Bytes held between micro-batches: all gradients, or from stage 2 on sums of this process's rows."""
        return (self.held.rows if self._is_cut_early else self.held.elements) * FLOAT

    def arriving(self, elements: int, *, is_first: bool) -> int:
        """Return the extra bytes while a gradient of ``elements`` is added to earlier ones.

        These are the gradient, a float32 copy, and a new sum unless ``is_first``.
        """
        widened = FLOAT if self.item < FLOAT else 0
        summed = FLOAT if self.are_taken and not is_first and not self._is_cut_early else 0
        return elements * (self.item + widened + summed)

    @cached_property
    def sections(self) -> list[Section]:
        """Sections from the end of the model; empty below stage 2, which reduces only after the last micro-batch."""
        if not self._is_cut_early:
            return []
        found = []
        for units in self.held.sections(self.item):
            gradients = sum(part.size for unit in units for part in unit) * FLOAT
            buffer = min(gradients, self._buffer)
            found.append(
                Section(
                    pending=gradients + buffer,
                    layers=sum(map(count_layers, units)),
                    last=sum(p.size for p in units[-1]),
                )
            )
        return found

    @cached_property
    def _buffer(self) -> int:
        """Bytes of a message: the packed gradients and, if sharded, this process's piece of the sum."""
        bucket = self.held.largest_bucket(self.item) * FLOAT
        return bucket + (bucket // self.layout.sharding if self.layout.sharding_stage else 0)

    @cached_property
    def for_update(self) -> int:
        """Bytes of the gradients that the optimizer's step applies."""
        return (self.held.rows if self.layout.sharding_stage else self.held.elements) * FLOAT

    @cached_property
    def finishing(self) -> int:
        """The peak between the last micro-batch and the step: messages, or squares for the norm."""
        if not self.are_taken:
            return self.between_batches + self.held.largest * FLOAT
        squares = min(self.held.largest, message_cuts.SQUARED_AT_ONCE) * _SQUARE_BYTES
        return max(self.between_batches + self._buffer, self.for_update + squares, self._publishing)

    @cached_property
    def _publishing(self) -> int:
        """Buffers for publishing new weights: this process's rows, all pieces, whole tensors."""
        if self.layout.sharding_stage not in (1, 2):
            return 0
        bucket = self.held.largest_bucket(self.item) * self.item
        return 2 * bucket + bucket // self.layout.sharding
