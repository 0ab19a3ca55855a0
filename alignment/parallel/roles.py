"""Ranks of their own for the roles of a run (policy, critic, reward model), and work that only those ranks do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import paddle.distributed as dist

from alignment.architecture.layout import ONE_PROCESS, Layout
from alignment.parallel.comms.group import ALONE, Group
from alignment.parallel.comms.together import Attempt
from alignment.parallel.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleRanks:
    """The ranks of a run that hold the model of a role, and how they divide it among themselves."""

    world: Group = ALONE
    """All processes of the run."""
    ranks: tuple[int, ...] = (0,)
    """World ranks, in increasing order."""
    layout: Layout = ONE_PROCESS
    topology: Topology | None = None
    """The groups of this process among ``ranks``; None: it is not one of them, or no model is divided."""

    @property
    def is_here(self) -> bool:
        """True on the ranks of the role."""
        return self.world.index in self.ranks

    @property
    def is_first(self) -> bool:
        """True on the rank whose results the others get."""
        return self.world.index == self.ranks[0]

    @property
    def is_everyone(self) -> bool:
        """True if every process of the run has the role: nothing is exchanged then."""
        return len(self.ranks) == self.world.size


EVERYONE = RoleRanks()
"""The only process of a run."""


class RoleWork(NamedTuple):
    """What the ranks of a role do, and all ranks get the result of; ``action`` is called on those ranks only."""

    who: RoleRanks
    action: Callable[[], Any]


def share_work(works: Sequence[RoleWork]) -> list[Any]:
    """Return the results of ``works``, which ranks apart do at the same time, in every process of the run.

    All processes call this with works of the same roles in the same order; each does its own in that order, then there
    is one exchange. Results of work that every process does stay where they are. The first failure, by the order of
    works, is raised in all processes.
    """
    if all(work.who.is_everyone for work in works):
        return [work.action() for work in works]
    world = next(work.who.world for work in works if not work.who.is_everyone)
    attempts = [Attempt(world) for _ in works]
    own = [
        attempt.run(work.action) if work.who.is_here else None for attempt, work in zip(attempts, works, strict=True)
    ]
    sent = [
        (attempt.failure, result if work.who.is_first and not work.who.is_everyone else None)
        for attempt, work, result in zip(attempts, works, own, strict=True)
    ]
    gathered = world.gather_objects(sent, "results of the roles")
    for number, attempt in enumerate(attempts):
        attempt.raise_first([row[number][0] for row in gathered])
    return [
        result if work.who.is_everyone else gathered[work.who.ranks[0]][number][1]
        for number, (work, result) in enumerate(zip(works, own, strict=True))
    ]


def place_roles(world: Topology, wanted: Mapping[str, tuple[Sequence[int], Layout]]) -> dict[str, RoleRanks]:
    """Return the ranks of each role, given as world ranks and their layout; all processes of ``world`` call it alike.

    Roles on the same ranks in the same layout share their groups.
    """
    made: dict[tuple[int, ...], Any] = {}
    found: dict[tuple[tuple[int, ...], Layout], RoleRanks] = {}
    roles = {}
    for role, (given, layout) in wanted.items():
        ranks = tuple(sorted(given))
        assert len(ranks) == layout.world_size, f"{role}: {len(ranks)} ranks for {layout}"
        if (ranks, layout) not in found:
            topology = _divide(world, ranks, layout, made)
            found[ranks, layout] = RoleRanks(world=world.world, ranks=ranks, layout=layout, topology=topology)
        roles[role] = found[ranks, layout]
    return roles


def _divide(
    world: Topology, ranks: tuple[int, ...], layout: Layout, made: dict[tuple[int, ...], Any]
) -> Topology | None:
    """Return the groups of this process among ``ranks``; every process creates all groups, which ``made`` collects."""
    keys: dict[str, Callable[[_Seat], Any]] = {
        "world": lambda s: (),
        "tensor": lambda s: (s.data, s.stage, s.sharding),
        "pipeline": lambda s: (s.data, s.sharding, s.tensor),
        "sharding": lambda s: (s.data, s.stage, s.tensor),
        "data": lambda s: (s.stage, s.sharding, s.tensor),
        "batch": lambda s: (s.stage, s.tensor),
        "replica": lambda s: (s.data, s.sharding),
    }
    own: dict[str, Group] = {}
    for name, key in keys.items():
        groups: dict[Any, list[int]] = {}
        for index, rank in enumerate(ranks):
            groups.setdefault(key(_Seat.of(index, layout)), []).append(rank)
        for members in map(tuple, groups.values()):
            if len(members) > 1 and members not in made:
                made[members] = dist.new_group(list(members))
            if world.rank in members:
                own[name] = Group(name, members, rank=world.rank, handle=made.get(members), link=world.link)
    return Topology(device=world.device, layout=layout, link=world.link, **own) if own else None


class _Seat(NamedTuple):
    """The coordinates of a rank in a layout, in the order of the axes of ``initialise``."""

    data: int
    stage: int
    sharding: int
    tensor: int

    @classmethod
    def of(cls, index: int, layout: Layout) -> _Seat:
        rest, tensor = divmod(index, layout.tensor)
        rest, sharding = divmod(rest, layout.sharding)
        data, stage = divmod(rest, layout.pipeline)
        return cls(data, stage, sharding, tensor)
