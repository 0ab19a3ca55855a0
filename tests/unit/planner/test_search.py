"""Layouts that are found work for every model, fit, and do the work of the one they replace."""

from __future__ import annotations

from operator import attrgetter

import pytest

from alignment.architecture.cuts import check_degrees
from alignment.architecture.layout import Layout
from alignment.planner.machine import Machine, process_bytes
from alignment.planner.search import evaluate, layout_problems, same_work, search
from tests.unit.planner.jobs import make_config, make_job

MACHINE = Machine()
FREE = Machine(network_bytes=1e30, processes_per_node=0)
"""Messages cost nothing."""
EVERYTHING = 1 << 60


def find(job, processes, limit=EVERYTHING, like=None):
    return search(job, processes=processes, limit=limit, machine=MACHINE, like=like or Layout(data=processes))


def test_every_layout_found_has_the_processes_and_degrees_that_work():
    job = make_job(critic=make_config(num_attention_heads=4, num_key_value_heads=2))
    ways = find(job, 24)
    found = {candidate.layout for candidate in ways}
    assert len({(c.layout, c.job.eval_mode) for c in ways}) == len(ways) > len(found)
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
    assert len(found) == sum(c.peak <= limit for c in everything) < len(everything)
    assert [c.duration.total for c in found] == sorted(c.duration.total for c in found)
    like = Layout(data=8)
    first = search(job, processes=8, limit=limit, machine=MACHINE, like=like, most=3)
    assert [c.duration for c in first] == [c.duration for c in found[:3]]
    assert find(job, 8, 1) == []


def test_fewer_processes_with_rows_of_their_own_make_more_micro_batches():
    job = make_job(micro_batches=4, iteration_rows=8)
    by_layout = {c.layout: c for c in find(job, 4) if c.job.eval_mode is None}
    alone = by_layout[Layout(data=4)]
    shared = by_layout[Layout(tensor=4)]
    # As many bytes a micro-batch and four times the micro-batches.
    direct = evaluate(make_job(micro_batches=16, iteration_rows=32), Layout(tensor=4), MACHINE)
    assert shared == direct
    assert alone == evaluate(job, Layout(data=4), MACHINE)


@pytest.mark.parametrize(
    ("batch", "rows", "micro_batches", "iteration"),
    [(4, 16, 1, 16), (8, 8, 1, 8), (2, 16, 2, 32), (1, 16, 4, 64), (16, 4, 1, 4), (5, 13, 1, 13), (128, 1, 1, 1)],
)
def test_every_layout_does_the_work_of_the_files(batch, rows, micro_batches, iteration):
    """64 rows an update: 4 processes that see their own have 16 each; with 8 of them each has 8, not 16 again."""
    job = make_job(rows_per_batch=16, micro_batches=1, iteration_rows=16, logprob_rows=16, value_rows=4, reward_rows=2)
    cut = same_work(job, Layout(tensor=2, sharding=4), Layout(data=batch))
    assert (cut.rows_per_batch, cut.micro_batches, cut.iteration_rows) == (rows, micro_batches, iteration)
    assert (cut.logprob_rows, cut.value_rows, cut.reward_rows) == (
        min(16, iteration),
        min(4, iteration),
        min(2, iteration),
    )


def test_layouts_with_more_processes_that_see_their_own_rows_are_not_charged_twice():
    job = make_job(rows_per_batch=16, micro_batches=1, iteration_rows=16)
    like = Layout(tensor=2, data=4)
    one, other = (evaluate(same_work(job, like, layout), layout, FREE) for layout in (like, Layout(data=8)))
    assert one.duration.update == pytest.approx(other.duration.update)
    assert one.duration.score == pytest.approx(other.duration.score)


def test_the_ways_to_roll_out_are_compared_and_none_comes_twice():
    ways = find(make_job(), 4)
    by_layout = {layout: [c.job.eval_mode for c in ways if c.layout == layout] for layout in {c.layout for c in ways}}
    assert set(by_layout[Layout(tensor=2, pipeline=2)]) == {None, "single", "tensor_parallel"}
    assert set(by_layout[Layout(tensor=4)]) == {None, "single"}
    assert by_layout[Layout(data=4)] == [None]
    own = find(make_job(eval_mode="tensor_parallel", rollout_tensor=4), 4)
    assert {c.job.eval_mode for c in own if c.layout == Layout(tensor=4)} == {"tensor_parallel", "single"}
    assert {c.job.eval_mode for c in find(make_job(policy=None, phases=("update",), critic=None), 4)} == {None}


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


@pytest.mark.parametrize(
    ("device", "layout", "resharded", "gib"),
    [
        ("cpu", Layout(tensor=2, sharding=4), True, 0.2),
        ("gpu", Layout(), True, 1.5),
        # World, sharding, and the processes that see their own rows.
        ("gpu", Layout(sharding=8), False, 1.5 + 3 * 0.3),
        # Also tensor, and the processes that see the same rows.
        ("gpu", Layout(tensor=2, sharding=4), False, 1.5 + 5 * 0.3),
        ("gpu", Layout(tensor=2, sharding=4), True, 1.5 + 7 * 0.3),
        # Also two pairs of neighbours.
        ("gpu", Layout(pipeline=2), False, 1.5 + 5 * 0.3),
    ],
)
def test_a_process_holds_a_communicator_for_every_group(device, layout, resharded, gib):
    assert process_bytes(device, layout, resharded=resharded) == int(gib * 2**30)
