"""This process among all: its groups along every axis of the layout; a value, built once and handed to constructors."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.architecture.layout import ONE_PROCESS, Layout
from alignment.parallel.comms.group import ALONE, Group, Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Groups of this process; in one process each of them is ``ALONE``."""

    device: str
    """``cpu`` or ``gpu``."""
    layout: Layout = ONE_PROCESS
    world: Group = ALONE
    """Everyone."""
    tensor: Group = ALONE
    """Those that share this process's layers."""
    pipeline: Group = ALONE
    """The stages this process's micro-batches pass."""
    sharding: Group = ALONE
    """Those that share this process's optimizer state."""
    data: Group = ALONE
    """Those that hold the same state and see other rows."""
    batch: Group = ALONE
    """All that hold the same part of the model and see other rows: sharding times data."""
    replica: Group = ALONE
    """All that see the same rows: tensor times pipeline."""
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
        """Who this is, for messages."""
        return describe_rank(self.rank, self.layout)


def describe_rank(rank: int, layout: Layout) -> str:
    """Return for example ``rank 3 (stage 1, tensor 1, batch 0)``; see ``initialise`` for the order of the axes."""
    rest, tensor = divmod(rank, layout.tensor)
    rest, sharding = divmod(rest, layout.sharding)
    data, stage = divmod(rest, layout.pipeline)
    return f"rank {rank} (stage {stage}, tensor {tensor}, batch {data * layout.sharding + sharding})"
