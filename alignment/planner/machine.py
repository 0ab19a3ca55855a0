"""Speeds of a machine by the name of its GPU, and the memory of a process besides its tensors.

From data sheets; nothing was measured with this package on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from alignment.architecture.layout import Layout
from alignment.planner.memory import Measure

GIB = 2**30


class Processor(NamedTuple):
    """One GPU, or one process of a CPU."""

    flops: float
    """Floating-point operations per second reached by matrix products: 40 % of the bfloat16 peak."""
    memory_bytes: float
    """Memory bandwidth in bytes per second."""
    link_bytes: float
    """Bytes per second between two devices of a node."""


PROCESSORS = {
    "h100": Processor(400e12, 3.35e12, 300e9),
    "h200": Processor(400e12, 4.8e12, 300e9),
    "h800": Processor(400e12, 3.35e12, 130e9),
    "h20": Processor(59e12, 4.0e12, 300e9),
    "b200": Processor(900e12, 8.0e12, 600e9),
    "a100": Processor(125e12, 2.0e12, 200e9),
    "a800": Processor(125e12, 2.0e12, 130e9),
    "l40s": Processor(145e12, 0.86e12, 20e9),
    "cpu": Processor(0.05e12, 0.01e12, 5e9),
}


class EngineCost(NamedTuple):
    """Overhead of a decode step in seconds, besides arithmetic and memory."""

    layer: float
    """Launching the operators of one layer."""
    step: float
    """Sampling."""


ENGINE_COSTS = {
    "eager, gpu": EngineCost(layer=0.9e-3, step=2e-3),
    "fused, gpu": EngineCost(layer=0.03e-3, step=0.1e-3),
    "eager, cpu": EngineCost(layer=1.1e-3, step=5e-3),
    "fused, cpu": EngineCost(layer=0.05e-3, step=1e-3),
}
"""Eager on a GPU launches about 50 kernels per layer from Python; fused on a GPU replays a captured graph."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine for estimates of time and memory; by default nodes of eight H100s."""

    name: str = "h100"
    """Of ``PROCESSORS``."""
    flops: float = PROCESSORS["h100"].flops
    """See ``Processor``."""
    network_bytes: float = 40e9
    """Bytes per second between nodes, per process."""
    processes_per_node: int = 8
    measure: Measure = attrgetter("on_device")
    """Which bytes of a moment have to fit."""

    @property
    def processor(self) -> Processor:
        """Its data sheet."""
        return PROCESSORS[self.name]

    @property
    def device(self) -> str:
        """``cpu`` or ``gpu``."""
        return "cpu" if self.name == "cpu" else "gpu"

    def link(self, processes: int) -> float:
        """Return the bytes per second between ``processes`` neighbouring processes."""
        return self.processor.link_bytes if processes <= self.processes_per_node else self.network_bytes


def process_bytes(device: str, layout: Layout, *, resharded: bool = False) -> int:
    """Return the bytes that a process holds besides its tensors; ``resharded``: rollouts use groups of their own.

    On a CPU: libraries and Python objects (measured with Paddle 3.3). On a GPU (an estimate): context and libraries,
    plus one NCCL communicator per process group and per pair of pipeline neighbours.
    """
    if device == "cpu":
        return int(0.2 * GIB)
    inner, outer = layout.tensor * layout.pipeline, layout.sharding * layout.data
    axes = layout.world_size, layout.tensor, layout.pipeline, layout.sharding, layout.data, inner, outer
    groups = sum(size > 1 for size in axes)
    groups += 2 * (layout.pipeline > 1) + 2 * (resharded and layout.world_size > 1)
    return int((1.5 + 0.3 * groups) * GIB)
