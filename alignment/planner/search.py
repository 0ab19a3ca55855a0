"""Layouts of a number of processes that fit in memory, the quickest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from alignment.models.split_plan import check_degrees
from alignment.parallel.layout import Layout
from alignment.planner.job import Job
from alignment.planner.memory import peak, phase_memory
from alignment.planner.messages import idle_share, update_bytes


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What time is estimated from; the defaults are an H100-like GPU with eight to a node."""

    flops: float = 400e12
    """Floating-point operations a second that matrix products reach."""
    node_bytes: float = 300e9
    """Bytes a second between processes of one node."""
    network_bytes: float = 40e9
    """Bytes a second between nodes, per process."""
    processes_per_node: int = 8


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One layout and what it costs."""

    layout: Layout
    memory: dict[str, dict[str, int]]
    sent: dict[str, int]
    """Bytes a process sends in an update of the policy, by axis."""
    idle: float
    """Share of the update in which a stage waits."""
    seconds: float
    """Estimate of one update of the policy."""

    @property
    def peak(self) -> int:
        """Bytes of the largest phase."""
        return peak(self.memory)


def evaluate(job: Job, layout: Layout, machine: Machine) -> Candidate:
    """Return what ``layout`` costs; ``job`` counts rows per process that sees its own."""
    sent, idle = update_bytes(job, layout), idle_share(job, layout)
    return Candidate(
        layout=layout,
        memory=phase_memory(job, layout),
        sent=sent,
        idle=idle,
        seconds=_seconds(job, layout, machine, sent, idle),
    )


def search(job: Job, *, processes: int, limit: int, machine: Machine, like: Layout) -> list[Candidate]:
    """Return the layouts of ``processes`` whose largest phase is within ``limit`` bytes, quickest first.

    Every layout does the work of ``like``: with fewer processes that see their own rows, each makes more micro-batches.
    """
    found = []
    for layout in _layouts(job, processes):
        micro = -(-job.micro_batches * like.batch // layout.batch)
        rows = -(-job.iteration_rows * like.batch // layout.batch)
        rollout = rows if job.rollout_rows == job.iteration_rows else min(job.rollout_rows, rows)
        candidate = evaluate(
            replace(job, micro_batches=micro, iteration_rows=rows, rollout_rows=rollout), layout, machine
        )
        if candidate.peak <= limit:
            found.append(candidate)
    return sorted(found, key=lambda candidate: (candidate.seconds, candidate.peak))


def _layouts(job: Job, processes: int) -> Iterator[Layout]:
    for tensor in _divisors(processes):
        for pipeline in _divisors(processes // tensor):
            rest = processes // (tensor * pipeline)
            for sharding in _divisors(rest):
                stages = (0,) if sharding == 1 else (1, 2, 3)
                for stage in stages:
                    layout = Layout(
                        tensor=tensor,
                        pipeline=pipeline,
                        sharding=sharding,
                        data=rest // sharding,
                        sharding_stage=stage,
                    )
                    if not any(check_degrees(config, layout) for config in (job.policy, job.critic)):
                        yield layout


def _seconds(job: Job, layout: Layout, machine: Machine, sent: dict[str, int], idle: float) -> float:
    """Compute over the processes that share a row, longer by the idle share, plus the time messages take."""
    config = job.policy
    per_token = 6 * sum(part_size for part_size in _layer_sizes(config)) * config.num_hidden_layers
    tokens = job.rows_per_batch * job.length * job.micro_batches
    work = tokens * per_token * (4 / 3 if job.recompute else 1) / (layout.tensor * layout.pipeline * machine.flops)
    inner = layout.tensor <= machine.processes_per_node
    tensor = sent["tensor"] / (machine.node_bytes if inner else machine.network_bytes)
    local = layout.world_size <= machine.processes_per_node
    other = (sent["pipeline"] + sent["batch"]) / (machine.node_bytes if local else machine.network_bytes)
    return work / (1 - idle) + tensor + other


def _layer_sizes(config) -> tuple[int, ...]:
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    return (
        2 * config.hidden_size * queries,
        2 * config.hidden_size * keys,
        3 * config.hidden_size * config.intermediate_size,
    )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
