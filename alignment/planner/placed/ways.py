"""Placements that fit where the one asked for does not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from alignment.arguments.parsed import Parsed
from alignment.arguments.roles.placement import Share, read_placement
from alignment.errors import ArgumentError
from alignment.planner.job import CRITICS, Job
from alignment.planner.machine import Machine
from alignment.planner.placed.ranks import PlannedRank, placement_problems, plan_ranks
from alignment.runs.degrees import resolve_roles


class Way(NamedTuple):
    """A placement and the processes that it needs."""

    placement: str
    processes: int


def find_way(job: Job, parsed: Parsed, full: PlannedRank, machine: Machine, *, limit: int) -> Way | None:
    """Return a placement in which every rank fits in ``limit`` bytes: one with a role of ``full``, the fullest rank,
    elsewhere, or with every role on ranks of its own; None if none of them fits.
    """
    shares = read_placement(parsed.placement.placement)
    for moved in _placements(shares, full.ranks[0]):
        used = {rank for share in moved.values() for rank in share.ranks}
        way = Way(_write(moved), len(used))
        try:
            seats = resolve_roles(parsed.replace("placement", placement=way.placement), world_size=way.processes)
        except ArgumentError:  # a rank is left without a role
            continue
        fits = not placement_problems(job, seats) and all(
            some.peak(machine.measure) <= limit for some in plan_ranks(job, seats, machine)
        )
        if fits:
            return way
    return None


def _placements(shares: Mapping[str, Share], full: int) -> Iterator[dict[str, Share]]:
    """Yield placements that may need less on rank ``full``, those with as many ranks first.

    Frozen roles move first: critics elsewhere learn at the same time as the policy, which stays, as the batch sizes of
    the run count its ranks.
    """
    free = 1 + max(rank for share in shares.values() for rank in share.ranks)
    here = [role for role, share in shares.items() if full in share.ranks and role != "policy"]
    here.sort(key=lambda role: role in CRITICS)
    others = list(dict.fromkeys(share for share in map(_hashable, shares.values()) if full not in share[0]))
    for ranks, degrees in others:
        for role in here:
            yield {**shares, role: Share(ranks, dict(degrees))}
    for role in here:
        yield {**shares, role: Share((free,))}
    policy = shares["policy"]
    apart = (rank for rank in range(free + len(shares)) if rank not in policy.ranks)
    yield {role: policy if role == "policy" else Share((next(apart),)) for role in shares}


def _hashable(share: Share) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...]]:
    return share.ranks, tuple(share.degrees.items())


def _write(shares: Mapping[str, Share]) -> str:
    return json.dumps(
        {
            role: {"ranks": list(share.ranks), **share.degrees} if share.degrees else list(share.ranks)
            for role, share in shares.items()
        }
    )
