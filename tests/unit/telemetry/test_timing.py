"""Stage times add up, throughput divides by them, pop starts anew."""

from __future__ import annotations

import pytest

from alignment.telemetry import timing
from alignment.telemetry.timing import StageTimer


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves by hand."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_seconds_add_up_and_pop_resets(clock):
    timer = StageTimer()
    for seconds in (2.0, 3.0):
        with timer.stage("rollout"):
            clock(seconds)
        timer.count("rollout", tokens=100, sequences=4)
    assert timer.pop() == {
        "time/rollout_seconds": 5.0,
        "time/rollout_tokens_per_second": 40.0,
        "time/rollout_sequences_per_second": 1.6,
    }
    assert timer.pop() == {}


def test_nested_time_counts_in_both(clock):
    timer = StageTimer()
    with timer.stage("step"):
        clock(1.0)
        with timer.stage("update"):
            clock(2.0)
    assert timer.pop() == {"time/update_seconds": 2.0, "time/step_seconds": 3.0}


def test_a_stage_that_raises_is_charged(clock):
    timer = StageTimer()
    with pytest.raises(RuntimeError), timer.stage("update"):
        clock(4.0)
        raise RuntimeError
    assert timer.pop() == {"time/update_seconds": 4.0}


def test_queued_work_is_awaited_before_both_readings(clock):
    timer = StageTimer(synchronize=lambda: clock(0.5))
    with timer.stage("update"):
        clock(1.0)
    assert timer.pop() == {"time/update_seconds": 1.5}


def test_work_without_time_is_a_mistake():
    timer = StageTimer()
    timer.count("rollout", tokens=1)
    with pytest.raises(AssertionError, match="'rollout'"):
        timer.pop()
