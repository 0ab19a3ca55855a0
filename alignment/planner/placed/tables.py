"""Print the plan of a run with ``placement``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alignment.arguments.roles.placement import describe_ranks
from alignment.planner.job import Job
from alignment.planner.machine import GIB, Machine
from alignment.planner.memory import ALWAYS_SHOWN, CACHE
from alignment.planner.placed.phases import Turn
from alignment.planner.placed.ranks import PlannedRank
from alignment.planner.placed.ways import Way
from alignment.planner.tables import EXPLANATION, gib, print_phases
from alignment.telemetry.tables import print_table


def print_ranks(job: Job, ranks: Sequence[PlannedRank], machine: Machine) -> None:
    """Print what ranks need by component and phase, and a summary by rank."""
    for some in ranks:
        weights = (job.weights_of(role) for role in some.roles if role in job.models)
        always = dict.fromkeys((*weights, *ALWAYS_SHOWN, *([CACHE] if "rollout" in some.roles else [])))
        print_phases(f"GiB in {_each(some)}", some.memory, some.base, machine.device, list(always))
    print(EXPLANATION)
    rows = [
        [
            ", ".join(map(str, some.ranks)),
            ", ".join(some.roles),
            *(gib(some.base + machine.measure(moment)) for moment in some.memory.values()),
        ]
        for some in ranks
    ]
    print_table("GiB by rank", ["rank", "roles", *job.phases], rows)


def print_turns(turns: Iterable[Turn]) -> None:
    """Print which ranks work at what in each phase, and which wait."""
    rows = [
        [
            turn.step.phase,
            describe_ranks(turn.ranks.ranks),
            ", then ".join(turn.roles) or "-",
            f"{turn.seconds:.3g}" if turn.roles else "-",
            f"{turn.waits:.3g}" if turn.waits else "-",
        ]
        for turn in turns
    ]
    print_table("who works and who waits", ["phase", "ranks", "at", "seconds", "waits"], rows)
    print(
        "seconds are estimates of an iteration (not measured). A phase ends with one exchange of its results, until "
        "which all ranks wait for the slowest\n"
    )


def judge(ranks: Sequence[PlannedRank], machine: Machine, *, limit: int) -> str:
    """Return in words whether every rank fits in ``limit`` bytes."""
    over = [some for some in ranks if some.peak(machine.measure) > limit]
    told = "; ".join(_need(some, machine, limit) for some in over or [fullest(ranks, machine)])
    verdict = "DOES NOT FIT" if over else "fits"
    return f"the placement {verdict} on devices of {limit / GIB:g} GiB: {told}"


def fullest(ranks: Sequence[PlannedRank], machine: Machine) -> PlannedRank:
    """Return the ranks that need most."""
    return max(ranks, key=lambda some: some.peak(machine.measure))


def describe_way(way: Way | None) -> str:
    """Return what would fit instead."""
    if way is None:
        return (
            "what helps: more devices, tensor_parallel_degree or pipeline_parallel_degree for the role that needs "
            "most, offload_level, recompute, smaller batches or a smaller max_length"
        )
    return f"this one fits, with --gpus {way.processes}: --placement '{way.placement}'"


def _need(some: PlannedRank, machine: Machine, limit: int) -> str:
    needed = some.peak(machine.measure)
    rest = f"{gib(abs(limit - needed))} GiB {'are left' if needed <= limit else 'too many'}"
    need = "need" if len(some.ranks) > 1 else "needs"
    return f"{some} {need} {gib(needed)} GiB in the {some.fullest(machine.measure)} phase, {rest}"


def _each(some: PlannedRank) -> str:
    return f"{'each of ' if len(some.ranks) > 1 else ''}{some}"
