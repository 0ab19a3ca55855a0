"""Bytes of the experts that rollouts chose, kept to learn with the same ones (``use_rollout_routing_replay``).

All are in host memory: what the engine records, the rows of the rollout, and micro-batches made of these.
"""

from __future__ import annotations

from alignment.generation.fused.fused_settings import FusedSettings
from alignment.planner.job import Job

_OF_KERNELS = 2
"""Bytes of a number as the compiled kernels write it."""


def _row(job: Job) -> int:
    """Return the bytes of the longest row."""
    return job.length * job.policy.experts.choice_bytes(job.policy.num_hidden_layers)


def kept_choices(job: Job) -> int:
    """Return the bytes of the rollouts that one process holds."""
    return job.kept_choices * job.iteration_rows * _row(job) if job.kept_choices else 0


def batched_choices(job: Job, *, rows: int, at_once: int) -> int:
    """Return the bytes of ``rows`` in padded micro-batches that exist together, ``at_once`` of them read by a pass."""
    return (rows + at_once) * _row(job) if job.kept_choices else 0


def recorded_by_fused_engine(job: Job, *, responses: int) -> int:
    """Return the bytes in which the fused engine collects those of one call: of its rows, and of a pass."""
    if not job.kept_choices:
        return 0
    numbers = job.policy.num_hidden_layers * job.policy.experts.top_k
    return responses * _row(job) + FusedSettings().max_rows * numbers * _OF_KERNELS


def recorded_by_eager_engine(job: Job, *, rows: int, num_stages: int) -> int:
    """Return the bytes in which the eager engine collects those of ``rows`` side by side.

    Rows are finished in as many groups as there are stages: of one, what each stage sent is there, and their union.
    """
    if not job.kept_choices:
        return 0
    sent = num_stages if num_stages > 1 else 0
    return (rows + (sent + 1) * -(-rows // num_stages)) * _row(job)
