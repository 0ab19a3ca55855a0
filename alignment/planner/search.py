"""Find the layouts of a number of processes that fit in memory, fastest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from alignment.architecture.cuts import check_degrees, team_problem
from alignment.architecture.layout import Layout
from alignment.planner.duration import Duration, iteration_seconds
from alignment.planner.job import Job
from alignment.planner.machine import Machine, process_bytes
from alignment.planner.memory import Moment, phase_memory
from alignment.planner.messages import idle_share, update_bytes


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One layout and what it costs."""

    layout: Layout
    job: Job
    """The work of one process in this layout: its rows and batches, and ``eval_mode``."""
    memory: dict[str, Moment]
    """The peak moment of each phase."""
    base: int
    """Bytes that a process holds besides its tensors."""
    peak: int
    """``base`` plus the bytes of the largest of them, by the machine's ``measure``."""
    sent: dict[str, int]
    """Bytes that a process sends per update of the learner, by axis."""
    idle: float
    """Share of the update in which a stage is idle."""
    duration: Duration
    """Estimated time of one iteration."""


def evaluate(job: Job, layout: Layout, machine: Machine) -> Candidate:
    """Return the costs of ``layout`` for ``job``."""
    memory = phase_memory(job, layout, machine.measure)
    base = process_bytes(machine.device, layout, resharded=bool(job.eval_mode))
    return Candidate(
        layout=layout,
        job=job,
        memory=memory,
        base=base,
        peak=base + max(machine.measure(moment) for moment in memory.values()),
        sent=update_bytes(job, layout),
        idle=idle_share(job, layout),
        duration=iteration_seconds(job, layout, machine),
    )


def search(
    job: Job, *, processes: int, limit: int, machine: Machine, like: Layout, most: int | None = None
) -> list[Candidate]:
    """Return the layouts of ``processes``, each with every useful ``eval_mode``, whose peak is within ``limit`` bytes,
    shortest iteration first; with ``most`` no more than so many.

    Every layout does the same work as ``like``: as many rows per update and per iteration over all processes.
    """
    ways = [
        (iteration_seconds(variant, layout, machine).total, index, variant, layout)
        for index, layout in enumerate(_layouts(job, processes, like))
        for variant in _ways_to_roll_out(same_work(job, like, layout), layout)
    ]
    found: list[Candidate] = []
    for *_, variant, layout in sorted(ways, key=lambda way: way[:2]):
        if most is not None and len(found) >= most:
            break
        candidate = evaluate(variant, layout, machine)
        if candidate.peak <= limit:
            found.append(candidate)
    return sorted(found, key=lambda candidate: (candidate.duration.total, candidate.peak))


def same_work(job: Job, like: Layout, layout: Layout) -> Job:
    """Return the work of one process in ``layout`` when all together do the work of ``like``.

    Micro-batches only shrink where a process has fewer rows than one; a partly filled micro-batch counts as full.
    """
    rows, iteration = (
        -(-count * like.batch // layout.batch) for count in (job.rows_per_batch * job.micro_batches, job.iteration_rows)
    )
    micro_batches = -(-rows // job.rows_per_batch)
    return replace(
        job,
        micro_batches=micro_batches,
        rows_per_batch=-(-rows // micro_batches),
        iteration_rows=iteration,
        logprob_rows=min(job.logprob_rows, iteration),
        value_rows=min(job.value_rows, iteration),
        reward_rows=min(job.reward_rows, iteration),
    )


def _ways_to_roll_out(job: Job, layout: Layout) -> list[Job]:
    """Return ``job`` with each ``eval_mode`` that changes the shape of a rollout replica; its own comes first."""
    if not job.generates:
        return [job]
    modes = [replace(job, eval_mode=mode, rollout_tensor=-1) for mode in (None, "single", "tensor_parallel")]
    shapes = {}
    for variant in [job, *modes]:
        inner = variant.rollout_layout(layout)
        shapes.setdefault((inner.tensor, inner.pipeline), variant)
    return list(shapes.values())


def layout_problems(job: Job, layout: Layout) -> list[str]:
    """Return why ``layout`` cannot run ``job``, a message for each number with those that work; empty when it can."""
    own = job.own_layout(layout)
    models = [config for role, config in job.models.items() if not own or role != "teacher"]
    problems = [problem for config in models for problem in check_degrees(config, layout)]
    if own and (problem := team_problem(job.teacher, own.tensor, processes=layout.world_size)):
        problems.append(f"teacher_tensor_parallel_degree={own.tensor} {problem}")
    if (
        job.generates
        and job.eval_mode == "tensor_parallel"
        and not _can_roll_out(job, layout, job.rollout_layout(layout).tensor)
    ):
        works = [t for t in _divisors(layout.world_size) if _can_roll_out(job, layout, t)]
        problems.append(
            f"rollout_tensor_parallel_degree={job.rollout_layout(layout).tensor} does not divide the processes and "
            f"the policy's heads (allowed: {', '.join(map(str, works))})"
        )
    return list(dict.fromkeys(problems))


def _can_roll_out(job: Job, layout: Layout, tensor: int) -> bool:
    return layout.world_size % tensor == 0 and not check_degrees(job.policy, Layout(tensor=tensor))


def _layouts(job: Job, processes: int, like: Layout) -> Iterator[Layout]:
    """Yield every layout of ``processes`` that can run ``job``, with one chunk of layers a stage."""
    for tensor in _divisors(processes):
        for pipeline in _divisors(processes // tensor):
            rest = processes // (tensor * pipeline)
            for sharding in _divisors(rest):
                for stage in (0,) if sharding == 1 else (1, 2, 3):
                    layout = Layout(
                        tensor=tensor,
                        pipeline=pipeline,
                        sharding=sharding,
                        data=rest // sharding,
                        sharding_stage=stage,
                        sequence_parallel=like.sequence_parallel and tensor > 1,
                    )
                    if not layout_problems(job, layout):
                        yield layout


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
