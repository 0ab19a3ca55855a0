"""A run whose preferred answers become less likely for long says so once; noise and short falls say nothing."""

from __future__ import annotations

import random

import pytest

from alignment.loops import falling_answers
from alignment.loops.falling_answers import FallingAnswers
from alignment.metrics import Metric


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(falling_answers.log, "warn", lines.append)
    monkeypatch.setattr(falling_answers.log, "is_main", lambda: True)
    return lines


def observe(numbers):
    watch = FallingAnswers()
    for number in numbers:
        watch.observe({"logps/chosen": Metric(number)})


def steps(*levels):
    """20 updates at each level."""
    return [level for level in levels for _ in range(20)]


def test_a_fall_of_a_hundred_updates_is_told_once_with_both_numbers(said):
    observe(steps(-20.0, *[-22.0] * 12))
    [line] = said
    assert line.startswith(
        "the preferred answers have become less likely for 100 updates: their mean log-prob (logps/chosen) is -22, and "
        "was -20 in the first 20. The loss only needs the rejected answers to fall faster; if the policy"
    )


@pytest.mark.parametrize(
    "numbers",
    [
        steps(-20.0, *[-22.0] * 4),
        steps(-20.0, *[-22.0] * 4, -20.5, *[-22.0] * 4),
        steps(-20.0, *[-20.9] * 12),
        steps(-20.0, *[-18.0] * 12),
        steps(-20.0, *[-22.0] * 12)[:119],
        [random.Random(3).gauss(-200, 60) for _ in range(4000)],
    ],
    ids=["too short", "interrupted", "less than a nat", "a rise", "one update short", "noise"],
)
def test_other_courses_are_not_warned_of(said, numbers):
    observe(numbers)
    assert said == []


def test_a_fall_is_found_in_noise_that_it_exceeds(said):
    rng = random.Random(5)
    observe([rng.gauss(-200 - update / 10, 20) for update in range(1000)])
    assert len(said) == 1


def test_other_metrics_are_ignored(said):
    watch = FallingAnswers()
    for _ in range(400):
        watch.observe({"sft/loss": Metric(2.0)})
    assert said == [] and watch.window == []
