"""Which layers of a model, and which share of each, this process holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignment.architecture.cuts import held_names, layer_ranges, local_part, whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.parts import Part
from alignment.parallel.comms.group import ALONE, Group
from alignment.parallel.topology import Topology


@dataclass(frozen=True, slots=True)
class Placement:
    """What a model constructor needs to know about the layout."""

    tensor: Group = ALONE
    """The tensor-parallel group."""
    stage: int = 0
    num_stages: int = 1
    chunks_per_stage: int = 1
    """Runs of consecutive layers per stage (more than 1: interleaved pipeline)."""
    sequence_parallel: bool = False
    """Whether tokens outside attention and feed-forward are split over ``tensor``."""
    expert_degree: int = 1
    """Groups of the ``tensor`` processes that each hold some of the experts."""
    four_bit: bool = False
    """Whether the matrices of the layers are held in 4 bits; they cannot be trained then."""
    is_nowhere: bool = False
    """Whether this process holds nothing of the model, which other ranks run; it knows the model's configuration."""

    @classmethod
    def of(cls, topology: Topology | None, *, four_bit: bool = False) -> Placement:
        """Return the placement of this process in the training layout ``topology`` (None: it is not in it)."""
        if topology is None:
            return cls(is_nowhere=True)
        return cls(
            tensor=topology.tensor,
            stage=topology.pipeline.index,
            num_stages=topology.pipeline.size,
            chunks_per_stage=topology.layout.virtual_stages,
            sequence_parallel=topology.layout.sequence_parallel,
            expert_degree=topology.layout.expert,
            four_bit=four_bit,
        )

    @property
    def is_first(self) -> bool:
        """True on the stage with the embedding."""
        return self.stage == 0 and not self.is_nowhere

    @property
    def is_last(self) -> bool:
        """True on the stage with the final norm and the head."""
        return self.stage == self.num_stages - 1 and not self.is_nowhere

    def layers(self, num_layers: int) -> list[range]:
        """Return the layer numbers of each chunk of this process."""
        if self.is_nowhere:
            return [range(0)]
        return layer_ranges(
            num_layers, stage=self.stage, num_stages=self.num_stages, chunks_per_stage=self.chunks_per_stage
        )

    def parts(self, config: DecoderConfig, kind: str, **head: Any) -> dict[str, Part]:
        """Return the part of each parameter that this process holds, by name; arguments as of ``whole_shapes``."""
        if self.is_nowhere:
            return {}
        shapes = whole_shapes(config, kind, **head)
        stages = {"stage": self.stage, "num_stages": self.num_stages, "chunks_per_stage": self.chunks_per_stage}
        names = held_names(list(shapes), config, **stages)
        parts = {name: local_part(name, shapes[name], config, **self.tensor_place) for name in names}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def tensor_place(self) -> dict[str, int]:
        """This process among those that share a layer, as ``local_part`` takes it."""
        group = self.tensor
        return {"tensor_degree": group.size, "tensor_index": group.index, "expert_degree": self.expert_degree}


WHOLE = Placement()
"""The whole model in this process."""
