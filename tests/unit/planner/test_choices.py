"""Bytes of experts' choices against those that engines, rollouts and micro-batches really hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from alignment.architecture.layout import Layout
from alignment.generation.eager.recorded_experts import ExpertsByRow
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.generation.fused.recorded_experts import ExpertsBySequence
from alignment.generation.fused.sequences import make_sequences
from alignment.planner.choices import (
    batched_choices,
    kept_choices,
    recorded_by_eager_engine,
    recorded_by_fused_engine,
)
from alignment.planner.memory import phase_memory
from alignment.planner.rollout import CHOICES
from alignment.records import Completion, Rollout
from alignment.rollout.minibatches import token_batch
from tests.unit.planner.jobs import make_config, make_job

PROMPT, RESPONSE, ROWS = 20, 12, 6


def job_of(count=300, **changes):
    config = make_config(model_type="mixtral", num_local_experts=count, num_experts_per_tok=3)
    given = {"policy": config, "length": PROMPT + RESPONSE, "response": RESPONSE, "iteration_rows": ROWS}
    return make_job(**{"kept_choices": 1, **given, **changes})


def completions_of(job):
    """Return what an engine that records gives, and the bytes in which it recorded."""
    prompts = [np.arange(PROMPT) + row for row in range(ROWS)]
    sizes = {"num_layers": job.policy.num_hidden_layers}
    sequences = make_sequences(prompts, [RESPONSE] * ROWS, sequence_ids=range(ROWS))
    record = ExpertsBySequence(sequences, job.policy.experts, num_slots=ROWS, **sizes)
    plain = [Completion(np.zeros(RESPONSE, np.int64), np.zeros(RESPONSE, np.float32), "length")] * ROWS
    return prompts, record.complete(plain), record._found.nbytes


@pytest.mark.parametrize("count", [4, 300])
def test_a_rollout_and_its_micro_batches_are_as_large_as_planned(count):
    job = job_of(count)
    prompts, completions, recorded = completions_of(job)
    experts = tuple(c.routed_experts for c in completions)
    rollout = Rollout(
        prompts=tuple(prompts),
        responses=tuple(c.token_ids for c in completions),
        finish_reasons=("length",) * ROWS,
        group_ids=np.arange(ROWS),
        routed_experts=experts,
    )
    assert kept_choices(job) == sum(array.nbytes for array in experts)
    assert kept_choices(replace(job, kept_choices=2)) == 2 * kept_choices(job)
    batches = [token_batch(rollout, rows) for rows in np.split(np.arange(ROWS), 3)]
    held = sum(batch.routed_experts.nbytes for batch in batches)
    assert batched_choices(job, rows=ROWS, at_once=2) == held + batches[0].routed_experts.nbytes
    of_pass = FusedSettings().max_rows * job.policy.num_hidden_layers * 3 * 2
    assert recorded_by_fused_engine(job, responses=ROWS) == recorded + of_pass


def test_the_eager_engine_has_what_it_recorded_and_the_union_of_stages():
    job = job_of()
    sizes = {"num_rows": ROWS, "num_layers": job.policy.num_hidden_layers, "longest": job.length}
    recorded = ExpertsByRow(job.policy.experts, **sizes)._found.nbytes
    assert recorded_by_eager_engine(job, rows=ROWS, num_stages=1) == 2 * recorded
    assert recorded_by_eager_engine(job, rows=ROWS, num_stages=2) == recorded + 3 * recorded // 2


@pytest.mark.parametrize("fused", [False, True])
def test_every_phase_counts_them_and_a_run_without_replay_none(fused):
    plan = phase_memory(job_of(fused=fused, micro_batches=3), Layout(), lambda moment: moment.host.get(CHOICES, 0))
    found = {phase: moment.host[CHOICES] // kept_choices(job_of(iteration_rows=1)) for phase, moment in plan.items()}
    row_of_pass = FusedSettings().max_rows / job_of().length
    assert found["rollout"] == ROWS + (ROWS + int(row_of_pass) if fused else 2 * ROWS)
    assert (found["score"], found["update"]) == (ROWS + ROWS + 2, ROWS + 6 + 2)
    without = phase_memory(job_of(kept_choices=0), Layout(), lambda moment: moment.everywhere)
    assert not any(moment.host.get(CHOICES) for moment in without.values())
