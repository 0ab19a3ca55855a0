"""Trials in child processes: one that takes the process with it is named, and the others are still tried."""

from __future__ import annotations

import os
import signal
import time

import pytest

from alignment.selfcheck.children import TrialOutcome, try_in_children


def end_by(name):
    return lambda: os.kill(os.getpid(), getattr(signal, name))


def fail():
    raise ValueError("half of it is missing")


def attempt(*trials, timeout=60.0):
    return try_in_children(lambda: trials, start="the start", timeout=timeout)


WELL = (("one", list), ("two", list))


def test_all_run_in_one_child_in_order(tmp_path):
    seen = tmp_path / "pids"

    def note():
        with seen.open("a") as file:
            file.write(f"{os.getpid()}\n")

    assert attempt(("one", note), ("two", note)) == [TrialOutcome(name, None) for name in ("the start", "one", "two")]
    first, second = seen.read_text().split()
    assert first == second != str(os.getpid())


def test_a_death_is_named_and_the_others_are_tried():
    found = attempt(WELL[0], ("bad", end_by("SIGILL")), ("worse", end_by("SIGSEGV")), WELL[1])
    assert [outcome.name for outcome in found] == ["the start", "one", "bad", "worse", "two"]
    problems = [outcome.problem for outcome in found]
    assert problems[:2] == [None, None] and problems[4] is None
    assert problems[2].startswith("was ended by SIGILL (Illegal instruction): ")
    assert problems[3] == "was ended by SIGSEGV (Segmentation fault)"


def test_an_exception_is_a_failure_and_the_same_child_goes_on():
    assert attempt(("bad", fail), WELL[1])[1:] == [
        TrialOutcome("bad", "failed: ValueError: half of it is missing"),
        TrialOutcome("two", None),
    ]


def test_a_trial_without_end_is_ended():
    found = attempt(("endless", lambda: time.sleep(600)), WELL[1], timeout=1.0)
    assert found[1:] == [TrialOutcome("endless", "did not finish within 1 s"), TrialOutcome("two", None)]


@pytest.mark.parametrize(
    ("start", "words"), [(fail, "failed: ValueError: "), (end_by("SIGILL"), "was ended by SIGILL ")]
)
def test_nothing_follows_a_start_that_fails(start, words):
    ((name, problem),) = try_in_children(start, start="the import", timeout=60.0)
    assert name == "the import" and problem.startswith(words)


def test_a_start_that_fails_the_second_time_ends_it(tmp_path):
    def start():
        mark = tmp_path / "mark"
        if mark.exists():
            os.kill(os.getpid(), signal.SIGBUS)
        mark.touch()
        return [("bad", end_by("SIGILL")), ("two", list)]

    found = try_in_children(start, start="the start", timeout=60.0)
    assert [outcome.name for outcome in found] == ["bad", "the start"]
    assert found[1].problem.startswith("was ended by SIGBUS ")
