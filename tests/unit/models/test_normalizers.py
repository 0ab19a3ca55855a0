"""Score statistics where the peers' formulas give no number (their numbers: test_score_model.py)."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.models.decoder.normalizers import KINDS, build_normalizer

NAMES = [None, "RunningMeanStd", "ExponentialMovingAverage"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_learned_changes_nothing(name, kind):
    scores = np.array([-3.0, 0.5, 20.0])
    np.testing.assert_allclose(build_normalizer(name).normalize(scores, kind), scores, rtol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_single_scores_leave_the_variance_as_it_was(name):
    normalizer = build_normalizer(name)
    normalizer.update(np.array([4.0]))
    assert (normalizer.var, normalizer.count) == (1.0, 1)


def test_a_moving_average_of_single_scores_keeps_its_variance():
    normalizer = build_normalizer("ExponentialMovingAverage", 0.5)
    for _ in range(50):
        normalizer.update(np.array([2.0]))
    assert normalizer.mean == pytest.approx(2.0)
    assert normalizer.var == 1.0


def test_running_statistics_of_single_scores_are_those_of_all_of_them():
    scores = np.random.default_rng(0).normal(3.0, 2.0, 200)
    normalizer = build_normalizer("RunningMeanStd")
    for score in scores:
        normalizer.update(np.array([score]))
    assert (normalizer.mean, normalizer.count) == (pytest.approx(scores.mean()), 200)
    assert normalizer.var == pytest.approx(scores.var()), "no batch has a variance of its own, the means have"


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_one_goes_on_as_if_never_stopped(name):
    first, second = build_normalizer(name, 0.7), build_normalizer(name, 0.7)
    first.update(np.array([1.0, 5.0]))
    second.load_state(first.state())
    for normalizer in (first, second):
        normalizer.update(np.array([2.0, 2.5, 9.0]))
    assert first.state() == second.state()


def test_statistics_as_safe_rlhf_writes_them():
    normalizer = build_normalizer("RunningMeanStd")
    normalizer.load_state({"mean": [0.5], "var": [4.0]})
    assert (normalizer.mean, normalizer.var, normalizer.count) == (0.5, 4.0, 0)
