"""The multiplier of a constraint: which way it moves, its limits, its delay, and its state."""

from __future__ import annotations

import json
import math

import pytest

from alignment.algorithms.lagrange import LagrangeMultiplier
from alignment.errors import NumericalError


def make(**changes) -> LagrangeMultiplier:
    given = dict(initial=1.0, threshold=0.5, learning_rate=0.1, maximum=5.0, delay=0, window=4)
    return LagrangeMultiplier(**(given | changes))


def test_a_simulation_with_numbers_computed_by_hand():
    """The rule: log lambda <- log lambda + 0.1 * lambda * (mean of the last four costs - 0.5)."""
    multiplier = make()
    multiplier.observe([1.5, 2.5], num_updates=0)
    assert multiplier.log_value == pytest.approx(0.1 * 1.0 * (2.0 - 0.5))
    multiplier.observe([0.0, 0.0], num_updates=1)
    second = 0.15 + 0.1 * math.exp(0.15) * (1.0 - 0.5)
    assert multiplier.log_value == pytest.approx(second)
    metrics = multiplier.observe([-4.0, -4.0], num_updates=2)  # the window is now 0, 0, -4, -4
    third = second + 0.1 * math.exp(second) * (-2.0 - 0.5)
    assert multiplier.log_value == pytest.approx(third) and third < second
    assert metrics["train/episode_cost"].value == -2.0
    assert metrics["train/lambda"].value == pytest.approx(math.exp(third))


@pytest.mark.parametrize(("cost", "sign"), [(0.6, 1), (0.5, 0), (0.4, -1)])
def test_it_rises_above_the_threshold_and_falls_below(cost, sign):
    multiplier = make()
    multiplier.observe([cost], num_updates=0)
    assert (multiplier.value > 1) - (multiplier.value < 1) == sign


def test_it_stops_at_its_maximum_and_comes_back_at_once():
    multiplier = make(initial=4.9, maximum=5.0, window=1)
    for _ in range(3):
        multiplier.observe([100.0], num_updates=0)
        assert multiplier.value == pytest.approx(5.0)
    multiplier.observe([0.0], num_updates=0)
    assert multiplier.value == pytest.approx(5.0 * math.exp(-0.1 * 5.0 * 0.5))


def test_it_waits_for_its_delay_but_already_remembers_costs():
    multiplier = make(delay=3)
    for updates in range(3):
        multiplier.observe([2.0], num_updates=updates)
        assert multiplier.value == 1.0
    multiplier.observe([-2.0], num_updates=3)
    assert multiplier.log_value == pytest.approx(0.1 * (1.0 - 0.5))


def test_a_learning_rate_of_zero_keeps_it():
    multiplier = make(initial=0.25, learning_rate=0.0)
    multiplier.observe([50.0], num_updates=9)
    assert multiplier.value == pytest.approx(0.25)


def test_its_state_passes_through_json_bit_for_bit():
    one, other = make(), make()
    for cost in (0.1, 1 / 3, 2.7):
        one.observe([cost, -cost], num_updates=0)
    other.load_state(json.loads(json.dumps(one.state())))
    for cost in (0.7, -1.3):
        assert one.observe([cost], num_updates=0) == other.observe([cost], num_updates=0)
        assert one.state() == other.state()


def test_without_a_limit_it_may_not_overflow():
    multiplier = make(maximum=None, window=1)
    with pytest.raises(NumericalError, match="mean cost of 1000 .*Give lambda_max, a smaller lambda_lr .now 0.1"):
        multiplier.observe([1000.0], num_updates=0)
