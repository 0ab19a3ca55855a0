"""Layouts that are found work for every model, fit, and do the work of the one they replace."""

from __future__ import annotations

from operator import attrgetter

import pytest

from alignment.architecture.cuts import check_degrees
from alignment.architecture.layout import Layout
from alignment.planner.search import Machine, evaluate, layout_problems, search
from tests.unit.planner.jobs import make_config, make_job

MACHINE = Machine()
EVERYTHING = 1 << 60


def find(job, processes, limit=EVERYTHING, like=None):
    return search(job, processes=processes, limit=limit, machine=MACHINE, like=like or Layout(data=processes))


def test_every_layout_found_has_the_processes_and_degrees_that_work():
    job = make_job(critic=make_config(num_attention_heads=4, num_key_value_heads=2))
    found = [candidate.layout for candidate in find(job, 24)]
    assert found and len(set(found)) == len(found)
    for layout in found:
        assert layout.world_size == 24
        assert not check_degrees(job.policy, layout) and not check_degrees(job.critic, layout)
    # 8 heads of the policy and 4 of the critic; 4 layers.
    assert {layout.tensor for layout in found} == {1, 2, 4}
    assert {layout.pipeline for layout in found} == {1, 2, 3, 4}


def test_only_layouts_that_fit_are_found_and_the_quickest_comes_first():
    job = make_job()
    everything = find(job, 8)
    limit = sorted(candidate.peak for candidate in everything)[len(everything) // 2]
    found = find(job, 8, limit)
    assert found and all(candidate.peak <= limit for candidate in found)
    left_out = {c.layout for c in everything} - {c.layout for c in found}
    assert left_out and all(c.peak > limit for c in everything if c.layout in left_out)
    assert [c.seconds for c in found] == sorted(c.seconds for c in found)
    assert find(job, 8, 1) == []


def test_fewer_processes_with_rows_of_their_own_make_more_micro_batches():
    job = make_job(micro_batches=4, iteration_rows=8)
    by_layout = {candidate.layout: candidate for candidate in find(job, 4)}
    alone = by_layout[Layout(data=4)]
    shared = by_layout[Layout(tensor=4)]
    # As many bytes a micro-batch and four times the micro-batches.
    direct = evaluate(make_job(micro_batches=16, iteration_rows=32), Layout(tensor=4), MACHINE)
    assert shared == direct
    assert alone == evaluate(job, Layout(data=4), MACHINE)


def test_sequence_parallelism_of_the_file_is_kept_where_there_is_tensor_parallelism():
    found = find(make_job(), 4, like=Layout(tensor=4, sequence_parallel=True))
    assert all(c.layout.sequence_parallel == (c.layout.tensor > 1) for c in found)


def test_what_has_to_fit_is_what_the_machine_measures():
    job = make_job(offloaded=frozenset({"freeze_model"}))
    host = Machine(measure=attrgetter("everywhere"))
    assert evaluate(job, Layout(), host).peak > evaluate(job, Layout(), MACHINE).peak


@pytest.mark.parametrize(
    ("job", "layout", "message"),
    [
        (make_job(), Layout(tensor=3), "tensor_parallel_degree=3"),
        (make_job(), Layout(pipeline=5), "more than the model's 4 layers"),
        (make_job(reward=make_config(num_hidden_layers=2)), Layout(pipeline=3), "more than the model's 2 layers"),
        (make_job(eval_mode="tensor_parallel", rollout_tensor=4), Layout(data=6), "rollout_tensor_parallel_degree=4"),
        (make_job(eval_mode="tensor_parallel"), Layout(tensor=2, data=3), ""),
        (make_job(eval_mode="single"), Layout(tensor=2, data=3), ""),
    ],
)
def test_degrees_that_do_not_work_are_named(job, layout, message):
    problems = "; ".join(layout_problems(job, layout))
    assert message in problems and bool(message) == bool(problems)


def test_a_rollout_degree_that_divides_the_processes_is_asked_of_every_layout():
    job = make_job(eval_mode="tensor_parallel", rollout_tensor=4)
    assert find(job, 6) == []
    assert find(job, 8)
