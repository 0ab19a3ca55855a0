"""Count the elements of one model that one process holds, before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from alignment.architecture.adapter import Adapter, is_trained_with_adapter
from alignment.architecture.cuts import layer_number, layer_ranges, parts_of_rank, whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.families import EMBEDDING
from alignment.architecture.family import LAYERS
from alignment.architecture.layout import Layout
from alignment.architecture.parts import Part, even_cut
from alignment.parallel.sharding.message_cuts import cut_buckets, cut_sections


@dataclass(frozen=True)
class Held:
    """The parts of one model in the first tensor-parallel process of a stage; no other process holds more."""

    parts: tuple[Part, ...]
    sharding: int
    """Number of processes that shard the parts by rows."""

    @classmethod
    def of(
        cls,
        config: DecoderConfig,
        kind: str,
        layout: Layout,
        stage: int,
        adapter: Adapter | None = None,
        head: Mapping[str, Any] = MappingProxyType({}),
    ) -> Held:
        """Return what ``stage`` holds of a model of ``kind`` ``causal`` or ``score``, with its ``adapter``; ``head`` as
        for ``parts_of_rank``.
        """
        rank = stage * layout.tensor * layout.sharding
        parts = parts_of_rank(config, kind, layout, rank, **head)
        return cls(tuple(parts if adapter is None else adapter.with_factors(parts)), layout.sharding)

    @property
    def with_adapter(self) -> Held:
        """The parts that are trained if the model has an adapter."""
        return replace(self, parts=tuple(part for part in self.parts if is_trained_with_adapter(part.name)))

    def beginning(self, name: str) -> Held:
        """Return the parts whose names begin with ``name``."""
        return replace(self, parts=tuple(part for part in self.parts if part.name.startswith(name)))

    @cached_property
    def elements(self) -> int:
        """Elements of all parts."""
        return sum(part.size for part in self.parts)

    @cached_property
    def rows(self) -> int:
        """Elements of the first process's share when every tensor is sharded along its first axis."""
        sizes = (even_cut(part.extent[0], self.sharding, 0)[1] * math.prod(part.extent[1:]) for part in self.parts)
        return sum(sizes)

    @cached_property
    def largest(self) -> int:
        """Elements of the largest tensor."""
        return max((part.size for part in self.parts), default=0)

    def size_of(self, ending: str) -> int:
        """Return the elements of the first tensor whose name has this ending, 0 if there is none."""
        return next((part.size for part in self.parts if part.name.endswith(ending)), 0)

    @cached_property
    def units(self) -> list[list[Part]]:
        """Parts that are gathered and reduced together, in model order: whole layers, and each other tensor alone."""
        units: dict[str, list[Part]] = {}
        for part in self.parts:
            units.setdefault(_unit_name(part.name), []).append(part)
        return list(units.values())

    def sections(self, item: int) -> list[list[list[Part]]]:
        """Return the runs of units, from the last unit, whose gradients of ``item`` bytes are reduced together."""
        return cut_sections(reversed(self.units), lambda unit: _size(unit) * item)

    def largest_bucket(self, item: int) -> int:
        """Return the elements of the largest message buffer, which holds at least one tensor."""
        messages = [
            message
            for section in self.sections(item)
            for message in cut_buckets((part for unit in section for part in unit), lambda part: part.size * item)
        ]
        return max(map(_size, messages), default=0)


def count_layers(unit: Sequence[Part]) -> int:
    """Return 1 if the parts are those of a decoder layer, else 0."""
    return int(unit[0].name.startswith(LAYERS))


def stage_layers(config: DecoderConfig, layout: Layout, stage: int) -> list[int]:
    """Return the number of layers in each chunk of ``stage``."""
    ranges = layer_ranges(
        config.num_hidden_layers, stage=stage, num_stages=layout.pipeline, chunks_per_stage=layout.virtual_stages
    )
    return [len(chunk) for chunk in ranges]


def model_elements(config: DecoderConfig, kind: str) -> int:
    """Return the number of parameters of the whole model."""
    return sum(math.prod(shape) for shape in whole_shapes(config, kind).values())


def _size(unit: Sequence[Part]) -> int:
    return sum(part.size for part in unit)


def _unit_name(name: str) -> str:
    """Return ``model.layers.3`` for the tensors of a layer, and ``lm_head`` for ``lm_head.weight``."""
    if name.startswith(LAYERS):
        return f"{LAYERS}{layer_number(name)}"
    return EMBEDDING if name == EMBEDDING else name.rpartition(".")[0]
