"""Seconds of an iteration, against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alignment.architecture.layout import Layout
from alignment.planner.duration import (
    Duration,
    forward_seconds,
    iteration_seconds,
    rollout_seconds,
    step_seconds,
    update_seconds,
)
from alignment.planner.engines import rollout_engine
from alignment.planner.machine import PROCESSORS, Machine
from alignment.planner.messages import layers_elements, update_bytes
from alignment.planner.rollout import PlannedRollout
from tests.unit.planner.jobs import make_config, make_job

JOB = make_job()
CONFIG = JOB.policy
MACHINE = Machine(flops=1e9)
LAYERS = layers_elements(CONFIG)
HEAD = 1003 * 64


def test_a_forward_pass_multiplies_every_token_with_every_weight_once():
    tokens = 8 * 96
    assert forward_seconds(JOB, Layout(), MACHINE, "policy") == pytest.approx(2 * tokens * (LAYERS + HEAD) / 1e9)
    assert forward_seconds(JOB, Layout(), MACHINE, "reward") == pytest.approx(2 * tokens * LAYERS / 1e9)
    assert forward_seconds(JOB, Layout(tensor=2, pipeline=2), MACHINE, "reward") == pytest.approx(
        2 * tokens * LAYERS / 4e9
    )


def test_an_update_costs_three_forward_passes_four_with_recomputing_and_twice_with_ptx():
    tokens = 2 * 96 * 2
    once = 6 * tokens * (LAYERS + HEAD) / 1e9
    assert update_seconds(JOB, Layout(), MACHINE, "policy") == pytest.approx(once)
    assert update_seconds(replace(JOB, recompute="full"), Layout(), MACHINE, "policy") == pytest.approx(once * 4 / 3)
    assert update_seconds(replace(JOB, recompute="full_attn"), Layout(), MACHINE, "policy") == pytest.approx(once)
    assert update_seconds(replace(JOB, with_ptx=True), Layout(), MACHINE, "policy") == pytest.approx(2 * once)
    critic = 6 * tokens * LAYERS / 1e9
    assert update_seconds(replace(JOB, with_ptx=True, recompute="full"), Layout(), MACHINE, "critic") == pytest.approx(
        critic
    )


def test_stages_wait_and_messages_cross_nodes():
    work = update_seconds(JOB, Layout(), MACHINE, "policy")
    slow = replace(MACHINE, network_bytes=1e6, processes_per_node=1)
    layout = Layout(pipeline=2, data=2)
    sent = update_bytes(JOB, layout, role="policy")
    # Two micro-batches on two stages: a third of the time is waiting.
    expected = work / 2 * 3 / 2 + (sent["pipeline"] + sent["batch"]) / 1e6
    assert update_seconds(JOB, layout, slow, "policy") == pytest.approx(expected)
    inside = update_bytes(JOB, Layout(tensor=2), role="policy")
    expected = work / 2 + inside["tensor"] / PROCESSORS["h100"].link_bytes
    assert update_seconds(JOB, Layout(tensor=2), MACHINE, "policy") == pytest.approx(expected)


def test_a_step_reads_weights_and_keys_and_starts_its_operators():
    machine = Machine(flops=1e18)
    rollout = PlannedRollout(job=JOB, layout=Layout(), stage=0)
    norms = 9 * 64
    weights = 4 * (LAYERS + HEAD + norms)
    keys = 8 * 2 * 4 * 4 * 8 * 4 * (64 + 16)
    read = (weights + keys) / (0.6 * 3.35e12)
    assert step_seconds(rollout, machine) == pytest.approx(read + 4 * 0.9e-3 + 2e-3)
    fused = PlannedRollout(
        job=replace(JOB, fused=True, rollout_weight_type="int8", rollout_kv_type="bfloat16"), layout=Layout(), stage=0
    )
    read = (weights / 4 + keys / 2) / (0.6 * 3.35e12)
    assert step_seconds(fused, machine) == pytest.approx(read + 4 * 0.03e-3 + 0.1e-3)


def test_a_step_of_many_rows_is_bound_by_arithmetic():
    many = PlannedRollout(job=make_job(iteration_rows=10_000, response=1, length=2), layout=Layout(), stage=0)
    products = 2 * 10_000 * (LAYERS + HEAD + 9 * 64) / 1e9
    assert step_seconds(many, MACHINE) == pytest.approx(products + 4 * 0.9e-3 + 2e-3)


def test_a_rollout_is_a_step_for_every_token_of_every_wave():
    rollout = PlannedRollout(job=JOB, layout=Layout(), stage=0)
    prompts = 2 * 8 * 64 * (LAYERS + HEAD) / 1e9
    assert rollout_seconds(JOB, Layout(), MACHINE) == pytest.approx(prompts + 32 * step_seconds(rollout, MACHINE))
    halves = make_job(side_by_side=4)
    half = step_seconds(PlannedRollout(job=halves, layout=Layout(), stage=0), MACHINE)
    assert rollout_seconds(halves, Layout(), MACHINE) == pytest.approx(prompts + 2 * 32 * half)


def test_weights_that_move_for_the_rollout_cost_their_way():
    layout, machine = Layout(tensor=4), Machine(flops=1e30, network_bytes=1e3, processes_per_node=1)
    single = make_job(eval_mode="single")
    rollout = PlannedRollout(job=single, layout=layout, stage=0)
    assert rollout.copied > 0
    moved = rollout_seconds(single, layout, machine) - 32 * step_seconds(rollout, machine)
    assert moved == pytest.approx(rollout.copied / 1e3)


def test_an_iteration_has_all_scoring_passes_and_all_updates():
    job = make_job(update_iters=3)
    found = iteration_seconds(job, Layout(), MACHINE)
    passes = {role: forward_seconds(job, Layout(), MACHINE, role) for role in job.models}
    assert set(passes) == {"policy", "critic", "reference", "reward"}
    assert found.score == pytest.approx(sum(passes.values()))
    one = sum(update_seconds(job, Layout(), MACHINE, role) for role in ("policy", "critic"))
    # Eight responses, four an update, learned from three times.
    assert found.update == pytest.approx(3 * 2 * one)
    assert found.rollout == rollout_seconds(job, Layout(), MACHINE)
    assert found.total == found.rollout + found.score + found.update


def test_an_offline_iteration_is_an_update_after_the_reference():
    alone = make_job(critic=None, reward=None, phases=("update",), has_reference=False)
    update = update_seconds(alone, Layout(), MACHINE, "policy")
    assert iteration_seconds(alone, Layout(), MACHINE) == Duration(0.0, 0.0, update)
    passes = ("reference", "reference", "policy")
    compared = make_job(critic=None, reward=None, phases=("reference", "update"), passes=passes)
    one = forward_seconds(compared, Layout(), MACHINE, "reference")
    assert iteration_seconds(compared, Layout(), MACHINE).score == pytest.approx(3 * one)


def test_the_engine_is_the_one_that_the_run_takes():
    fused = make_job(fused=True)
    assert [rollout_engine(job, Layout()) for job in (JOB, fused)] == ["eager", "fused"]
    assert rollout_engine(fused, Layout(pipeline=2)) == "eager"
    # The CUDA kernels have no heads of 8 numbers.
    assert rollout_engine(replace(fused, on_gpu=True), Layout()) == "eager"
    wide = make_config(hidden_size=256, num_attention_heads=8)
    assert rollout_engine(replace(fused, on_gpu=True, policy=wide), Layout()) == "fused"
