"""Estimate the seconds of one iteration: the rollout, the forward passes that score it, and all updates.

All sequences are counted at their full length. Attention scores and everything else that is not a product with a weight
are left out: use the numbers to compare layouts and engines, not to predict a run's duration.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from alignment.architecture.cuts import layer_sizes
from alignment.architecture.family import EXPERT
from alignment.architecture.layout import Layout
from alignment.planner.engines import rollout_engine
from alignment.planner.job import CRITICS, JUDGE, Job
from alignment.planner.machine import ENGINE_COSTS, Machine
from alignment.planner.messages import idle_share, layers_elements, update_bytes
from alignment.planner.rollout import PlannedRollout

_READ_SHARE = 0.6
"""Share of the memory bandwidth reached when weights and keys are read."""
_SUM_SECONDS = 20e-6
"""Latency of a small all-reduce over the tensor-parallel processes."""


class Duration(NamedTuple):
    """Seconds by phase; for an offline trainer an iteration is one update."""

    rollout: float
    score: float
    update: float

    @property
    def total(self) -> float:
        """Seconds of the iteration."""
        return sum(self)


def iteration_seconds(job: Job, layout: Layout, machine: Machine) -> Duration:
    """Return the duration of an iteration of ``job``."""
    if not job.is_on_policy:
        # A policy with an adapter is its own reference.
        roles = (role if role in job.models else "policy" for role in job.passes)
        before = sum(forward_seconds(job, layout, machine, role) for role in roles)
        sampled = job.sampled_share * rollout_seconds(job, layout, machine) if job.generates else 0.0
        return Duration(sampled, before, update_seconds(job, layout, machine, job.learner))
    updates = job.update_iters * job.iteration_rows / (job.rows_per_batch * job.micro_batches)
    one = sum(update_seconds(job, layout, machine, role) for role in job.trained)
    scored = sum(forward_seconds(job, layout, machine, role) for role in job.models if not role.startswith(JUDGE))
    return Duration(rollout_seconds(job, layout, machine), scored, updates * one)


def update_seconds(job: Job, layout: Layout, machine: Machine, role: str) -> float:
    """Return the seconds of one update of ``role``, supervised rows (PTX) included: compute stretched by idle time,
    plus messages.
    """
    again = 4 / 3 if (job.critic_recompute if role in CRITICS else job.recompute) == "full" else 1
    saved = job.saved_tokens(role, job.rows_per_batch, trains=True)
    tokens = (job.rows_per_batch * job.length - saved) * job.micro_batches
    work = 6 * again * tokens * _elements(job, role) / (layout.tensor * layout.pipeline * machine.flops)
    sent = update_bytes(job, layout, role=role)
    tensor = sent["tensor"] / machine.link(layout.tensor)
    other = (sent["pipeline"] + sent["batch"]) / machine.link(layout.world_size)
    passes = 2 if job.with_ptx and role == "policy" else 1
    return passes * (work / (1 - idle_share(job, layout)) + tensor) + other


def forward_seconds(job: Job, layout: Layout, machine: Machine, role: str) -> float:
    """Return the seconds of a forward pass of ``role`` over an iteration's responses."""
    rows = job.scored_rows(role)
    work = 2 * (rows * job.length_of(role) - job.saved_tokens(role, rows)) * _elements(job, role)
    return work / (layout.tensor * layout.pipeline * machine.flops)


def rollout_seconds(job: Job, layout: Layout, machine: Machine, rollout: PlannedRollout | None = None) -> float:
    """Return the seconds of an iteration's rollout: resharding the weights, prefill, and all decode steps.

    ``rollout``: the first process of a rollout with ranks of its own.
    """
    rollout = rollout or PlannedRollout(job=job, layout=layout, stage=0)
    replicas = layout.world_size // rollout.inner.world_size if job.eval_mode else layout.batch
    rows = ceil(job.iteration_rows * layout.batch / replicas)
    shared = rollout.inner.tensor * rollout.inner.pipeline
    prompts = 2 * rows * job.prompt * _elements(job, "policy") / (shared * machine.flops)
    steps = ceil(rows / rollout.rows) * job.response
    return rollout.moved / machine.link(layout.world_size) + prompts + steps * step_seconds(rollout, machine)


def step_seconds(rollout: PlannedRollout, machine: Machine) -> float:
    """Return the seconds of one decode step of all concurrent rows; pipeline stages work on groups of rows in turn."""
    job, tensor, stages = rollout.job, rollout.inner.tensor, rollout.inner.pipeline
    engine = rollout_engine(job, rollout.inner)
    weight, kv = (_engine_bytes(job, kind) if engine == "fused" else job.item for kind in ("weight", "kv"))
    group = ceil(rollout.rows / stages)
    weights, multiplied = _weights_of_step(rollout, group)
    config, layers = job.policy, job.policy.num_hidden_layers
    kv_heads = layer_sizes(config, tensor_degree=tensor, tensor_index=0).kv_heads
    token = 2 * ceil(layers / stages) * kv_heads * config.head_dim * kv
    read = weights * weight + group * token * (job.prompt + job.response // 2)
    stage = max(read / (_READ_SHARE * machine.processor.memory_bytes), 2 * group * multiplied / machine.flops)
    cost = ENGINE_COSTS[f"{engine}, {machine.device}"]
    messages = 2 * layers * _SUM_SECONDS if tensor > 1 else 0.0
    return stages * stage + stages * layers / stages * cost.layer + cost.step + messages


def _weights_of_step(rollout: PlannedRollout, group: int) -> tuple[float, float]:
    """Return the weights that a decode step of ``group`` rows reads, and those that one row is multiplied by.

    With experts these are the chosen ones, as if no two rows chose the same.
    """
    held = sum(part.size for part in rollout.wanted) - rollout.embedding
    experts = rollout.job.policy.experts
    if experts is None:
        return held, held
    routed = sum(part.size for part in rollout.wanted if EXPERT in part.name)
    chosen = experts.top_k / experts.count
    return held - routed * (1 - min(1.0, group * chosen)), held - routed * (1 - chosen)


def _engine_bytes(job: Job, kind: str) -> int:
    type_name = job.rollout_weight_type if kind == "weight" else job.rollout_kv_type
    return {"float32": 4, "bfloat16": 2, "int8": 1}[type_name]


def _elements(job: Job, role: str) -> int:
    """Return the number of weights that every token of ``role`` is multiplied with."""
    config = job.models[role]
    head = config.vocab_size * config.head_width if job.is_language_model(role) else 0
    return layers_elements(config) + head
