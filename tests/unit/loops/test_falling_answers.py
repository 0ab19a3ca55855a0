"""A run whose preferred answers become less likely for long says so once; noise and short falls say nothing."""

from __future__ import annotations

import json
import random

import pytest

from alignment.loops import falling_answers
from alignment.loops.falling_answers import FallingAnswers
from alignment.loops.session import Counters
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


@pytest.mark.parametrize("stop", [7, 20, 25, 119])
def test_a_resumed_run_warns_when_the_unbroken_one_would(said, stop):
    """A checkpoint after any update carries the log-prob of the first window."""
    numbers = steps(-20.0, *[-22.0] * 6)
    first, second = Counters(), Counters()
    for number in numbers[:stop]:
        first.falling_answers.observe({"logps/chosen": Metric(number)})
    second.load_state(json.loads(json.dumps(first.state())))
    for number in numbers[stop:119]:
        second.falling_answers.observe({"logps/chosen": Metric(number)})
    assert said == []
    second.falling_answers.observe({"logps/chosen": Metric(numbers[119])})
    assert len(said) == 1 and "is -22, and was -20 in the first 20" in said[0]


def test_a_checkpoint_of_an_earlier_version_starts_the_comparison_anew():
    counters, state = Counters(), Counters(updates=3).state()
    del state["falling_answers"]
    counters.load_state(state)
    assert counters == Counters(updates=3)


def test_other_metrics_are_ignored(said):
    watch = FallingAnswers()
    for _ in range(400):
        watch.observe({"sft/loss": Metric(2.0)})
    assert said == [] and watch.window == []
