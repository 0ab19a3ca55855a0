"""Learning rates at the corners of each schedule."""

import pytest

from alignment.training.schedules import Schedule, warmup_updates


def _schedule(kind, floor=0.0):
    return Schedule(kind=kind, peak=1.0, floor=floor, warmup_updates=10, decay_updates=110)


@pytest.mark.parametrize("kind", ["linear", "cosine", "polynomial", "constant_with_warmup"])
def test_warm_up_is_linear_from_zero(kind):
    assert [_schedule(kind).learning_rate(u) for u in (0, 5, 10)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(("kind", "middle"), [("linear", 0.55), ("cosine", 0.55), ("polynomial", 0.325)])
def test_decay_reaches_the_floor_and_stays(kind, middle):
    schedule = _schedule(kind, floor=0.1)
    assert schedule.learning_rate(60) == pytest.approx(middle)
    assert schedule.learning_rate(110) == schedule.learning_rate(500) == pytest.approx(0.1)


def test_constant_has_no_warm_up():
    assert _schedule("constant").learning_rate(0) == 1.0


def test_steps_win_over_ratio():
    assert warmup_updates(100, warmup_steps=7, warmup_ratio=0.5) == 7
    assert warmup_updates(101, warmup_steps=0, warmup_ratio=0.03) == 4
