"""Who works in which phase of a run with ``placement``, and who waits for whom.

The steps are those of ``rollout.judge`` (all passes that score a rollout in one exchange), ``loops.updates`` (policy
and critics in one; with ``target_kl`` the critics after the policy) and ``rollout.placed_engine``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alignment.arguments.roles.placement import ROLLOUT
from alignment.planner.duration import forward_seconds, rollout_seconds, update_seconds
from alignment.planner.job import JUDGE, Job
from alignment.planner.machine import Machine
from alignment.planner.placed.ranks import PlannedRank, Seats, job_of, planned_rollout, seat_of


class Exchange(NamedTuple):
    """The roles that work at the same time, until one exchange of their results."""

    phase: str
    roles: tuple[str, ...]


class Turn(NamedTuple):
    """What some ranks do in a step."""

    step: Exchange
    ranks: PlannedRank
    roles: tuple[str, ...]
    """Those of the step that the ranks have, one after the other; none: they only wait."""
    seconds: float
    waits: float
    """Seconds until the slowest ranks are done."""


def plan_steps(job: Job, *, target_kl: float | None) -> list[Exchange]:
    """Return the steps of an iteration; ``target_kl``: whether the critics learn depends on what the policy finds."""
    scoring = tuple(role for role in job.models if not role.startswith(JUDGE))
    updates = [job.trained] if target_kl is None else [job.trained[:1], job.trained[1:]]
    return [
        Exchange("rollout", (ROLLOUT,)),
        Exchange("score", _in_turn(job, scoring)),
        *(Exchange("update", roles) for roles in updates if roles),
    ]


def plan_turns(
    job: Job, seats: Seats, ranks: Sequence[PlannedRank], machine: Machine, *, target_kl: float | None
) -> Iterator[Turn]:
    """Yield what each of ``ranks`` does in each step of an iteration, and how long it waits for the others."""
    for step in plan_steps(job, target_kl=target_kl):
        works = [tuple(role for role in step.roles if role in some.roles) for some in ranks]
        seconds = [sum(_seconds(job, seats, machine, step.phase, role) for role in work) for work in works]
        for some, work, own in zip(ranks, works, seconds, strict=True):
            yield Turn(step, some, work, own, max(seconds) - own)


def _in_turn(job: Job, roles: Sequence[str]) -> tuple[str, ...]:
    """Return ``roles`` in the order of ``Judge.measure``: reward models, policy, reference, critics, the cost model."""
    order = ("policy", "reference", "critic", "cost_critic", "cost")
    return tuple(sorted(roles, key=lambda role: order.index(role) if role in order else -1))


def _seconds(job: Job, seats: Seats, machine: Machine, phase: str, role: str) -> float:
    """Return the estimated seconds of ``role`` in a phase of an iteration."""
    ranks, layout = seats[seat_of(role, seats)]
    own = job_of(job, seats, role)
    if phase == "rollout":
        return rollout_seconds(own, layout, machine, planned_rollout(job, seats, ranks[0]))
    if phase == "score":
        return forward_seconds(own, layout, machine, role)
    updates = job.update_iters * job.iteration_rows / (job.rows_per_batch * job.micro_batches)
    return updates * update_seconds(own, layout, machine, role)
