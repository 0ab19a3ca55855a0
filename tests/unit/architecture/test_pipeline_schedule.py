"""The order of events in a pipeline, gone through by processes whose messages block until they are taken."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.architecture.pipeline_schedule import Compute, StageTransfer, build_schedule, events_of, positions_of

PIPELINES = {"stages": st.integers(2, 6), "chunks": st.integers(1, 3), "num_batches": st.integers(0, 14)}


def run_stages(schedule, stages, costs=(1, 2)):
    """Let every stage go through its own events, messages blocking; return (end, busy time of each stage)."""
    left = [events_of(schedule, stage, stages)[::-1] for stage in range(stages)]
    clocks, busy = [0] * stages, [0] * stages
    while any(left):
        fronts = [events[-1] for events in left if events]
        able = [event for event in fronts if all(left[stage][-1] == event for stage in ends(event, stages))]
        assert able, f"deadlock at {fronts}"
        event = able[0]
        involved = ends(event, stages)
        now = max(clocks[stage] for stage in involved)
        cost = costs[event.backward] if isinstance(event, Compute) else 0
        for stage in involved:
            left[stage].pop()
            clocks[stage] = now + cost
            busy[stage] += cost
    return max(clocks), busy


def ends(event, stages):
    return {place % stages for place in positions_of(event)}


@given(**PIPELINES, with_backward=st.booleans())
def test_everything_happens_once_and_after_what_it_needs(stages, chunks, num_batches, with_backward):
    schedule = build_schedule(stages, chunks, num_batches, with_backward=with_backward)
    last = stages * chunks - 1
    seen = set()
    for event in schedule:
        assert event not in seen
        if isinstance(event, StageTransfer):
            assert Compute(event.source, event.batch, event.source > event.target) in seen
        elif not event.backward:
            assert event.position == 0 or StageTransfer(event.position - 1, event.position, event.batch) in seen
        else:
            assert replace(event, backward=False) in seen
            assert event.position == last or StageTransfer(event.position + 1, event.position, event.batch) in seen
        seen.add(event)
    directions = 2 if with_backward else 1
    kinds = Counter(map(type, schedule))
    assert kinds[Compute] == directions * num_batches * (last + 1)
    assert kinds[StageTransfer] == directions * num_batches * last


@given(**PIPELINES, with_backward=st.booleans())
def test_blocking_messages_do_not_deadlock(stages, chunks, num_batches, with_backward):
    run_stages(build_schedule(stages, chunks, num_batches, with_backward=with_backward), stages)


@given(**PIPELINES)
def test_activations_in_flight_are_bounded(stages, chunks, num_batches):
    schedule = build_schedule(stages, chunks, num_batches, with_backward=True)
    for stage in range(stages):
        held = most = 0
        for event in events_of(schedule, stage, stages):
            if isinstance(event, Compute):
                held += -1 if event.backward else 1
                most = max(most, held)
        distance = stages - 1 - stage
        group = max(stages, -(-num_batches // max(1, num_batches // stages)))
        assert most <= (distance + 1 if chunks == 1 else 2 * distance + (chunks - 1) * group + 1)
        assert held == 0


@given(**PIPELINES, with_backward=st.booleans())
def test_a_piece_takes_micro_batches_in_their_order(stages, chunks, num_batches, with_backward):
    schedule = build_schedule(stages, chunks, num_batches, with_backward=with_backward)
    for backward in (False, True)[: 1 + with_backward]:
        for position in range(stages * chunks):
            order = [e.batch for e in schedule if e == Compute(position, e.batch, backward)]
            assert order == list(range(num_batches))


@given(stages=st.integers(2, 8), num_batches=st.integers(1, 20), costs=st.sampled_from([(1, 1), (1, 2), (1, 3)]))
def test_bubble_of_one_chunk_is_the_formula(stages, num_batches, costs):
    end, busy = run_stages(build_schedule(stages, 1, num_batches, with_backward=True), stages, costs)
    assert set(busy) == {num_batches * sum(costs)}
    # (end - busy) / end = (stages - 1) / (num_batches + stages - 1)
    assert (end - busy[0]) * (num_batches + stages - 1) == (stages - 1) * end


@given(stages=st.integers(2, 6), chunks=st.integers(2, 4), more=st.integers(0, 12))
def test_chunks_divide_the_bubble(stages, chunks, more):
    num_batches = stages + more
    end, busy = run_stages(build_schedule(stages, chunks, num_batches, with_backward=True), stages)
    assert end - busy[0] == (stages - 1) * 3


@given(stages=st.integers(2, 6), chunks=st.integers(1, 3), more=st.integers(0, 12))
def test_forward_passes_fill_the_pipeline_once(stages, chunks, more):
    num_batches = stages + more
    end, _ = run_stages(build_schedule(stages, chunks, num_batches, with_backward=False), stages)
    assert end == num_batches * chunks + stages - 1


def test_two_stages_and_two_micro_batches_by_hand():
    forward = [
        Compute(0, 0, False),
        StageTransfer(0, 1, 0),
        Compute(0, 1, False),
        Compute(1, 0, False),
        StageTransfer(0, 1, 1),
    ]
    first = [Compute(1, 0, True), StageTransfer(1, 0, 0), Compute(0, 0, True), Compute(1, 1, False)]
    last = [Compute(1, 1, True), StageTransfer(1, 0, 1), Compute(0, 1, True)]
    assert list(build_schedule(2, 1, 2, with_backward=True)) == [*forward, *first, *last]


def test_one_stage_is_refused():
    with pytest.raises(AssertionError):
        build_schedule(1, 1, 3, with_backward=True)
