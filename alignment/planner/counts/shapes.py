"""What one process holds of one model, in numbers (elements), before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from alignment.architecture.cuts import layer_number, layer_ranges, parts_of_rank, whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import EMBEDDING
from alignment.architecture.family import LAYERS
from alignment.architecture.layout import Layout
from alignment.architecture.parts import Part, even_cut

BUCKET_BYTES = 25 << 20
"""As ``parallel.sharding.buckets``, which needs Paddle; a test holds the two together."""


@dataclass(frozen=True)
class Held:
    """The parts of one model in the first tensor-parallel process of a stage, which holds as much as any of them."""

    parts: tuple[Part, ...]
    sharding: int
    """Processes that cut the parts into rows among each other."""

    @classmethod
    def of(cls, config: DecoderConfig, kind: str, layout: Layout, stage: int) -> Held:
        """Return what ``stage`` holds of the model ``kind`` (``causal`` or ``score``)."""
        rank = stage * layout.tensor * layout.sharding
        return cls(tuple(parts_of_rank(config, kind, layout, rank)), layout.sharding)

    @cached_property
    def elements(self) -> int:
        """All of it."""
        return sum(part.size for part in self.parts)

    @cached_property
    def rows(self) -> int:
        """What is left when every tensor is cut along its first axis: the share of the first process."""
        return sum(_first_rows(part.extent, self.sharding) for part in self.parts)

    @cached_property
    def largest(self) -> int:
        """The largest tensor."""
        return max((part.size for part in self.parts), default=0)

    def size_of(self, ending: str) -> int:
        """Return the elements of the first tensor whose name ends so, 0 when there is none."""
        return next((part.size for part in self.parts if part.name.endswith(ending)), 0)

    @cached_property
    def units(self) -> list[list[Part]]:
        """Parts that are gathered and reduced together, in the model's order: whole layers, and every other tensor."""
        units: dict[str, list[Part]] = {}
        for part in self.parts:
            units.setdefault(_unit_name(part.name), []).append(part)
        return list(units.values())

    def sections(self, item: int) -> list[list[list[Part]]]:
        """Return runs of units from the last one on, each of about ``BUCKET_BYTES`` or more at ``item`` bytes a number:
        what ``shard_gradients`` reduces at a time.
        """
        sections: list[list[list[Part]]] = []
        current: list[list[Part]] = []
        for unit in reversed(self.units):
            current.append(unit)
            if sum(map(_size, current)) * item >= BUCKET_BYTES:
                sections.append(current)
                current = []
        return [*sections, current] if current else sections

    def largest_bucket(self, item: int) -> int:
        """Return the elements of the largest message buffer, which holds a tensor at least."""
        largest = 0
        for section in self.sections(item):
            held = 0
            for part in (part for unit in section for part in unit):
                held = part.size if (held + part.size) * item > BUCKET_BYTES else held + part.size
                largest = max(largest, held)
        return largest


def count_layers(unit: Sequence[Part]) -> int:
    """Return 1 for the parts of a decoder layer, else 0."""
    return int(unit[0].name.startswith(LAYERS))


def stage_layers(config: DecoderConfig, layout: Layout, stage: int) -> list[int]:
    """Return how many layers each chunk of ``stage`` has."""
    ranges = layer_ranges(
        config.num_hidden_layers, stage=stage, num_stages=layout.pipeline, chunks_per_stage=layout.virtual_stages
    )
    return [len(chunk) for chunk in ranges]


def model_elements(config: DecoderConfig, kind: str) -> int:
    """Return the parameters of the whole model."""
    return sum(math.prod(shape) for shape in whole_shapes(config, kind).values())


def _size(unit: Sequence[Part]) -> int:
    return sum(part.size for part in unit)


def _first_rows(extent: tuple[int, ...], pieces: int) -> int:
    start, stop = even_cut(extent[0], pieces, 0)
    return (stop - start) * math.prod(extent[1:])


def _unit_name(name: str) -> str:
    """Return ``model.layers.3`` for the tensors of a layer, and ``lm_head`` for ``lm_head.weight``."""
    if name.startswith(LAYERS):
        return f"{LAYERS}{layer_number(name)}"
    return EMBEDDING if name == EMBEDDING else name.rpartition(".")[0]
