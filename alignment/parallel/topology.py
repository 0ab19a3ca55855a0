"""The groups of this process along every axis of the layout: an immutable value passed to constructors."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.architecture.layout import ONE_PROCESS, Layout
from alignment.parallel.comms.group import ALONE, Group, Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The groups of this process; in a run of one process each is ``ALONE``."""

    device: str
    """``cpu`` or ``gpu``."""
    layout: Layout = ONE_PROCESS
    world: Group = ALONE
    """All processes."""
    tensor: Group = ALONE
    """Processes that split the same layers."""
    pipeline: Group = ALONE
    """The stages that this process's micro-batches pass through."""
    sharding: Group = ALONE
    """Processes that shard the same optimizer state."""
    data: Group = ALONE
    """Processes with the same state and other data."""
    batch: Group = ALONE
    """Processes with the same part of the model and other data: sharding times data."""
    replica: Group = ALONE
    """Processes with the same data: tensor times pipeline."""
    link: Link | None = None

    @property
    def world_size(self) -> int:
        return self.world.size

    @property
    def rank(self) -> int:
        return self.world.index

    @property
    def is_main(self) -> bool:
        """True on the one process that writes logs and files."""
        return self.rank == 0

    @property
    def place(self) -> str:
        """The name of this process, for messages."""
        return describe_rank(self.rank, self.layout)


def describe_rank(rank: int, layout: Layout) -> str:
    """Return a name such as ``rank 3 (stage 1, tensor 1, batch 0)``; ``initialise`` has the order of the axes."""
    stage = rank // (layout.tensor * layout.sharding) % layout.pipeline
    return f"rank {rank} (stage {stage}, tensor {rank % layout.tensor}, batch {batch_index(rank, layout)})"


def batch_index(rank: int, layout: Layout) -> int:
    """Return the index of ``rank`` in its ``Topology.batch``; processes with the same one have the same rows."""
    rest, sharding = divmod(rank // layout.tensor, layout.sharding)
    return rest // layout.pipeline * layout.sharding + sharding
