"""Bytes of gradients, of the sums made of them and of the buffers they travel in, by sharding stage.

One process that updates float32 weights leaves gradients where the backward pass puts them. Everywhere else they are
taken out of the model one by one and summed in float32 (``parallel.sharding.gradients``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from alignment.architecture.layout import Layout
from alignment.planner.counts.shapes import Held, count_layers

FLOAT = 4
_SQUARED = (1 << 22) * 2 * 8
"""Bytes in which ``shard_copies.sum_of_squares`` squares a large tensor: 2 ** 22 numbers and squares in float64."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Gradients that are reduced together while the backward pass goes on (sharding stage 2 and 3)."""

    pending: int
    """Bytes at the moment its last gradient has come: gradients, and buffers of the first message."""
    layers: int
    """Layers in it."""


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Of one trained model in one process."""

    held: Held
    layout: Layout
    item: int
    """Bytes of a weight."""

    @cached_property
    def are_taken(self) -> bool:
        """False: one process updates float32 weights themselves."""
        return self.layout.world_size > 1 or self.item < FLOAT

    @cached_property
    def _is_cut_early(self) -> bool:
        return self.layout.sharding > 1 and self.layout.sharding_stage >= 2

    @cached_property
    def between_batches(self) -> int:
        """What is held from one micro-batch to the next: all gradients, from stage 2 on sums of this process's rows."""
        return (self.held.rows if self._is_cut_early else self.held.elements) * FLOAT

    def arriving(self, elements: int, *, is_first: bool) -> int:
        """Return what a gradient of ``elements`` needs on top while it is added to those before it, if there are any:
        itself, a float32 copy, and a new sum.
        """
        widened = FLOAT if self.item < FLOAT else 0
        summed = FLOAT if self.are_taken and not is_first and not self._is_cut_early else 0
        return elements * (self.item + widened + summed)

    @cached_property
    def sections(self) -> list[Section]:
        """From the end of the model on; empty below stage 2, where everything is reduced after the last micro-batch."""
        if not self._is_cut_early:
            return []
        found = []
        for units in self.held.sections(self.item):
            gradients = sum(part.size for unit in units for part in unit) * FLOAT
            buffer = min(gradients, self._buffer)
            found.append(Section(pending=gradients + buffer, layers=sum(map(count_layers, units))))
        return found

    @cached_property
    def _buffer(self) -> int:
        """A message on its way: the packed gradients and, where they are cut, this process's piece of the sum."""
        bucket = self.held.largest_bucket(self.item) * FLOAT
        return bucket + (bucket // self.layout.sharding if self.layout.sharding_stage else 0)

    @cached_property
    def for_update(self) -> int:
        """What the optimizer's step holds of gradients: those it applies."""
        return (self.held.rows if self.layout.sharding_stage else self.held.elements) * FLOAT

    @cached_property
    def finishing(self) -> int:
        """The most that is held between the last micro-batch and the step: messages, or squares for the norm."""
        if not self.are_taken:
            return self.between_batches + self.held.largest * FLOAT
        squares = min(self.held.largest * 16, _SQUARED)
        return max(self.between_batches + self._buffer, self.for_update + squares, self._publishing)

    @cached_property
    def _publishing(self) -> int:
        """New weights on their way to the processes that share them: rows, everyone's pieces, whole tensors."""
        if self.layout.sharding_stage not in (1, 2):
            return 0
        bucket = self.held.largest_bucket(self.item) * self.item
        return 2 * bucket + bucket // self.layout.sharding
