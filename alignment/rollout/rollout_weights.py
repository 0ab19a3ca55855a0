"""Choose the layout of a rollout (``eval_mode``) and move the trained weights into it.

- empty: the training layout, with its tensor parallelism and stages; only rows sharded by stage 3 are gathered.
- ``single``: every process has the whole model and is its own replica.
- ``tensor_parallel``: replicas of ``rollout_tensor_parallel_degree`` neighbouring processes, without stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import paddle

from alignment.architecture.cuts import parts_of_rank, team_problem
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import Layout, rollout_layout
from alignment.architecture.parts import Part
from alignment.architecture.reshard_plan import ReshardPlan, plan_transfers
from alignment.errors import ArgumentError
from alignment.generation.engine_placement import WHOLE_MODEL, EnginePlacement
from alignment.models.decoder.placement import Placement
from alignment.parallel.comms.group import Group
from alignment.parallel.initialise import rollout_groups
from alignment.parallel.reshard import Resharder, bytes_per_element
from alignment.parallel.topology import Topology
from alignment.telemetry.tables import print_table

_MIB = 2**20


class RolloutPlacement(NamedTuple):
    """The placement of this process during generation."""

    engine: EnginePlacement
    replicas: Group
    """The processes with the same share of the model, one per replica."""


def check_rollout(config: DecoderConfig, layout: Layout, *, eval_mode: str | None, degree: int) -> None:
    """Raise ArgumentError if the tensor degree of the rollout does not fit the model and the processes."""
    wanted = rollout_layout(layout, eval_mode, degree).tensor
    problem = team_problem(config, wanted, processes=layout.world_size)
    if eval_mode == "tensor_parallel" and problem:
        raise ArgumentError(f"rollout_tensor_parallel_degree={wanted} {problem}")


def rollout_placement(
    topology: Topology, config: DecoderConfig, *, eval_mode: str | None, degree: int
) -> RolloutPlacement:
    """Return the placement of this process in the rollout; all processes call this once, as it may create groups."""
    check_rollout(config, topology.layout, eval_mode=eval_mode, degree=degree)
    if eval_mode == "single":
        return RolloutPlacement(WHOLE_MODEL, topology.world)
    if eval_mode == "tensor_parallel":
        tensor, replicas = rollout_groups(topology, rollout_layout(topology.layout, eval_mode, degree).tensor)
        return RolloutPlacement(EnginePlacement(tensor=tensor), replicas)
    layers = tuple(Placement.of(topology).layers(config.num_hidden_layers))
    return RolloutPlacement(
        EnginePlacement(
            tensor=topology.tensor, experts=topology.layout.expert, pipeline=topology.pipeline, layers=layers
        ),
        topology.batch,
    )


def rollout_parts(config: DecoderConfig, layout: Layout, *, eval_mode: str | None, degree: int) -> list[list[Part]]:
    """Return the parts of the model that each process of ``layout`` needs to generate."""
    inner = rollout_layout(layout, eval_mode, degree)
    return [parts_of_rank(config, "causal", inner, rank % inner.world_size) for rank in range(layout.world_size)]


class RolloutWeights:
    """Moves weights into the rollout layout by a plan made once; all processes create this together.

    A tensor that this process needs exactly as it holds it is passed on without a copy, so the next update changes it.
    """

    def __init__(
        self,
        topology: Topology,
        held: Sequence[Part],
        wanted: Sequence[Sequence[Part]],
        *,
        dtype: str = "float32",
    ) -> None:
        """``held`` are the parts that this process trains; for ``wanted`` see ``rollout_parts``."""
        sources = topology.world.gather_objects(list(held), "parts of the weights")
        self.plan = plan_transfers(sources, wanted)
        self._bytes_per_element = bytes_per_element(dtype)
        dtypes = {part.name: dtype for parts in sources for part in parts}
        self._resharder = Resharder(self.plan, topology, dtypes=dtypes)

    def stream(self, local: Mapping[str, paddle.Tensor]) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield (name, tensor) for the rollout, given what this process trains; all processes must exhaust it."""
        return self._resharder.stream(local)

    def show(self) -> None:
        """Print which rank sends what to which rank at every update."""
        print_plan(self.plan, bytes_per_element=self._bytes_per_element)


def print_plan(plan: ReshardPlan, *, bytes_per_element: int) -> None:
    """Print a row for every pair of processes that exchange weights, then the totals."""
    rows = [(row.source, row.target, row.num_tensors, row.num_bytes / _MIB) for row in plan.table(bytes_per_element)]
    print_table("weights for the rollout, at every update", ["from rank", "to rank", "tensors", "MiB"], rows)
    totals = plan.totals(bytes_per_element)
    sums = (totals.wanted, totals.sent, totals.copied, totals.zero_copy, totals.largest_sender)
    columns = ["needed MiB", "sent MiB", "copied inside a process MiB", "used in place MiB", "largest sender MiB"]
    print_table("sums over all processes", columns, [[size / _MIB for size in sums]])
