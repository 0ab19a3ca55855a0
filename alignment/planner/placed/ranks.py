"""What every rank of a run with ``placement`` holds: only its share of the models of its own roles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from alignment.architecture.cuts import check_degrees
from alignment.architecture.layout import Layout
from alignment.arguments.roles.placement import ROLLOUT, describe_ranks
from alignment.planner.counts.shapes import Held
from alignment.planner.job import JUDGE, Job
from alignment.planner.machine import Machine, process_bytes
from alignment.planner.memory import Measure, Moment, ProcessMemory
from alignment.planner.models import Placed
from alignment.planner.rollout import Apart, PlannedRollout

Seats = Mapping[str, tuple[tuple[int, ...], Layout]]
"""The ranks of each role and their layout, as ``runs.degrees.resolve_roles`` gives them."""


@dataclass(frozen=True, kw_only=True)
class PlannedRank:
    """Ranks that hold the same, and what each of them needs."""

    ranks: tuple[int, ...]
    roles: tuple[str, ...]
    """Roles of the job with a part here, and ``rollout`` if the rank generates."""
    memory: dict[str, Moment]
    """The peak moment of each phase."""
    base: int
    """Bytes that a process holds besides its tensors."""

    def peak(self, measure: Measure) -> int:
        """Return ``base`` plus the bytes of the largest moment."""
        return self.base + measure(self.memory[self.fullest(measure)])

    def fullest(self, measure: Measure) -> str:
        """Return the phase that needs most."""
        return max(self.memory, key=lambda phase: measure(self.memory[phase]))

    def __str__(self) -> str:
        return f"{describe_ranks(self.ranks)} ({', '.join(self.roles)})"


def plan_ranks(job: Job, seats: Seats, machine: Machine) -> list[PlannedRank]:
    """Return what the ranks of a placement need, in the order of ranks."""
    found: list[PlannedRank] = []
    for ranks, roles, process in _processes(job, seats):
        memory = {phase: max(process.moments(phase), key=machine.measure) for phase in job.phases}
        base = _base_bytes(machine.device, seats, ranks[0])
        alike = next((n for n, one in enumerate(found) if (one.roles, one.memory) == (roles, memory)), None)
        if alike is None:
            found.append(PlannedRank(ranks=ranks, roles=roles, memory=memory, base=base))
        else:
            found[alike] = replace(found[alike], ranks=(*found[alike].ranks, *ranks))
    return found


def placement_problems(job: Job, seats: Seats) -> list[str]:
    """Return why the models cannot be divided by the degrees of their roles; empty when they can."""
    configs = {**job.models, ROLLOUT: job.policy}
    found = []
    for role, config in configs.items():
        ranks, layout = seats[seat_of(role, seats)]
        found += [f"{role} on {describe_ranks(ranks)}: {problem}" for problem in check_degrees(config, layout)]
    return found


def seat_of(role: str, seats: Seats) -> str:
    """Return the name in the placement of ``role`` of a job: one of several score models may have its own, as
    ``runs.on_policy.reward_models.reward_role`` does it.
    """
    if role in seats:
        return role
    name = role.removeprefix(JUDGE).removeprefix("reward-")
    return name if name in seats else "reward"


def job_of(job: Job, seats: Seats, role: str) -> Job:
    """Return the work of one process of ``role``, given that of one of the policy.

    All ranks of a role together do all work, as many rows as the policy's ranks.
    """
    own, given = seats[seat_of(role, seats)][1].batch, seats["policy"][1].batch
    micro_batches, rows = (-(-count * given // own) for count in (job.micro_batches, job.iteration_rows))
    return replace(job, micro_batches=micro_batches, iteration_rows=rows)


def planned_rollout(job: Job, seats: Seats, rank: int) -> PlannedRollout | None:
    """Return the part of ``rank`` in the rollout; None: it has none."""
    ranks, layout = seats[ROLLOUT]
    if rank not in ranks:
        return None
    index, apart = ranks.index(rank), None
    trainers, trained = seats["policy"]
    if seats[ROLLOUT] != seats["policy"]:
        apart = Apart(index, (trained, trainers.index(rank)) if rank in trainers else None)
    own = job_of(job, seats, ROLLOUT)
    return PlannedRollout(job=own, layout=layout, stage=_stage(index, layout), apart=apart)


def _processes(job: Job, seats: Seats) -> Iterator[tuple[tuple[int, ...], tuple[str, ...], ProcessMemory]]:
    """Yield (ranks in the same place of the same roles, these roles, one of the processes)."""
    kinds: dict[tuple[tuple[str, tuple[int, int]], ...], list[int]] = {}
    for rank in sorted({rank for ranks, _ in seats.values() for rank in ranks}):
        kinds.setdefault(tuple(_places(job, seats, rank)), []).append(rank)
    for places, ranks in kinds.items():
        yield tuple(ranks), tuple(role for role, _ in places), _process(job, seats, ranks[0])


def _places(job: Job, seats: Seats, rank: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the roles of ``rank`` with its stage and its number in the tensor-parallel group."""
    for role in (*job.models, ROLLOUT):
        ranks, layout = seats[seat_of(role, seats)]
        if rank in ranks:
            index = ranks.index(rank)
            yield role, (_stage(index, layout), index % layout.tensor)


def _process(job: Job, seats: Seats, rank: int) -> ProcessMemory:
    models = {}
    for role, config in job.models.items():
        ranks, layout = seats[seat_of(role, seats)]
        if rank in ranks:
            stage = _stage(ranks.index(rank), layout)
            own = job_of(job, seats, role)
            models[role] = Placed(name=role, config=config, job=own, layout=layout, stage=stage)
    rollout = planned_rollout(job, seats, rank)
    sends = "policy" in models and rollout is None
    return ProcessMemory(job, models, rollout, sent=_sent_bytes(models["policy"], seats) if sends else 0)


def _sent_bytes(policy: Placed, seats: Seats) -> int:
    """Return the bytes that a process of ``policy`` sends to the replicas of the rollout at every update."""
    held = Held.of(policy.config, "causal", policy.layout, policy.stage)
    return held.elements * policy.job.item * -(-seats[ROLLOUT][1].batch // policy.layout.batch)


def _stage(index: int, layout: Layout) -> int:
    """Return the pipeline stage of the process ``index`` of ``layout``; see ``parallel.roles``."""
    return index // (layout.tensor * layout.sharding) % layout.pipeline


def _base_bytes(device: str, seats: Seats, rank: int) -> int:
    """Return the bytes of a process besides its tensors: it is in the groups of the run and of its roles."""
    world = Layout(data=len({rank for ranks, _ in seats.values() for rank in ranks}))
    alone = process_bytes(device, Layout())
    own = {seat for seat in seats.values() if rank in seat[0]}
    return process_bytes(device, world) + sum(process_bytes(device, layout) - alone for _, layout in own)
