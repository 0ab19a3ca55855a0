"""Find the layouts of a number of processes that fit in memory, fastest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter

from alignment.architecture.cuts import check_degrees
from alignment.architecture.layout import Layout
from alignment.planner.job import Job
from alignment.planner.memory import Measure, Moment, phase_memory
from alignment.planner.messages import idle_share, layer_elements, update_bytes
from alignment.planner.rollout import rollout_layout


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine for estimates of time and memory; by default nodes of eight H100-like GPUs."""

    flops: float = 400e12
    """Floating-point operations per second reached by matrix products."""
    node_bytes: float = 300e9
    """Bytes per second between processes of one node."""
    network_bytes: float = 40e9
    """Bytes per second between nodes, per process."""
    processes_per_node: int = 8
    measure: Measure = attrgetter("on_device")
    """Which bytes of a moment have to fit."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One layout and what it costs."""

    layout: Layout
    memory: dict[str, Moment]
    """The peak moment of each phase."""
    peak: int
    """Bytes of the largest of them, by the machine's ``measure``."""
    sent: dict[str, int]
    """Bytes that a process sends per update of the learner, by axis."""
    idle: float
    """Share of the update in which a stage is idle."""
    seconds: float
    """Estimated time of one update of the learner."""


def evaluate(job: Job, layout: Layout, machine: Machine) -> Candidate:
    """Return the costs of ``layout`` for ``job``."""
    sent, idle = update_bytes(job, layout), idle_share(job, layout)
    memory = phase_memory(job, layout, machine.measure)
    return Candidate(
        layout=layout,
        memory=memory,
        peak=max(machine.measure(moment) for moment in memory.values()),
        sent=sent,
        idle=idle,
        seconds=_seconds(job, layout, machine, sent, idle),
    )


def search(job: Job, *, processes: int, limit: int, machine: Machine, like: Layout) -> list[Candidate]:
    """Return the layouts of ``processes`` whose peak is within ``limit`` bytes, fastest first.

    Every layout does the same work as ``like``: with a smaller batch group, each process runs more micro-batches.
    """
    candidates = (evaluate(_same_work(job, like, layout), layout, machine) for layout in _layouts(job, processes, like))
    found = [candidate for candidate in candidates if candidate.peak <= limit]
    return sorted(found, key=lambda candidate: (candidate.seconds, candidate.peak))


def layout_problems(job: Job, layout: Layout) -> list[str]:
    """Return a message with the allowed values for each degree of ``layout`` that cannot run ``job``; empty if none."""
    problems = [problem for config in job.models.values() for problem in check_degrees(config, layout)]
    if (
        job.generates
        and job.eval_mode == "tensor_parallel"
        and not _can_roll_out(job, layout, rollout_layout(job, layout).tensor)
    ):
        works = [t for t in _divisors(layout.world_size) if _can_roll_out(job, layout, t)]
        problems.append(
            f"rollout_tensor_parallel_degree={rollout_layout(job, layout).tensor} does not divide the processes and "
            f"the policy's heads (allowed: {', '.join(map(str, works))})"
        )
    return list(dict.fromkeys(problems))


def _can_roll_out(job: Job, layout: Layout, tensor: int) -> bool:
    return layout.world_size % tensor == 0 and not check_degrees(job.policy, Layout(tensor=tensor))


def _same_work(job: Job, like: Layout, layout: Layout) -> Job:
    micro, rows = (-(-count * like.batch // layout.batch) for count in (job.micro_batches, job.iteration_rows))
    return replace(job, micro_batches=micro, iteration_rows=rows)


def _layouts(job: Job, processes: int, like: Layout) -> Iterator[Layout]:
    """Yield every layout of ``processes`` that can run ``job``, with one chunk of layers per stage."""
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


def _seconds(job: Job, layout: Layout, machine: Machine, sent: dict[str, int], idle: float) -> float:
    """Return compute time, split over the processes of a replica and stretched by idle time, plus message time."""
    per_token = 6 * layer_elements(job.learning) * job.learning.num_hidden_layers
    tokens = job.rows_per_batch * job.length * job.micro_batches
    again = 4 / 3 if job.recompute == "full" else 1
    work = tokens * per_token * again / (layout.tensor * layout.pipeline * machine.flops)
    inner = layout.tensor <= machine.processes_per_node
    tensor = sent["tensor"] / (machine.node_bytes if inner else machine.network_bytes)
    local = layout.world_size <= machine.processes_per_node
    other = (sent["pipeline"] + sent["batch"]) / (machine.node_bytes if local else machine.network_bytes)
    return work / (1 - idle) + tensor + other


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
