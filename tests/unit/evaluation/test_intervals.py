"""Intervals against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alignment.evaluation.intervals import bootstrap, bootstrap_mean, proportion, wilson


def test_wilson_solves_its_quadratic():
    """The ends are the p at which (mean - p)^2 = z^2 p (1 - p) / n."""
    z = 1.959963984540054
    for mean, count in ((0.5, 10), (0.9, 37), (0.0, 5), (1.0, 8), (0.375, 4)):
        found = wilson(mean, count)
        roots = np.roots([1 + z * z / count, -(2 * mean + z * z / count), mean * mean])
        assert sorted(roots.real) == pytest.approx([found.low, found.high], abs=1e-9)
        assert (found.value, found.count) == (mean, count)


def test_wilson_of_known_numbers():
    """8 of 10: 0.4902 to 0.9433 (a table of the score interval)."""
    found = wilson(0.8, 10)
    assert [round(found.low, 4), round(found.high, 4)] == [0.4902, 0.9433]
    narrow, wide = wilson(0.8, 10, 0.8), wilson(0.8, 10, 0.99)
    assert wide.low < found.low < narrow.low < narrow.high < found.high < wide.high


def test_a_tie_is_half():
    assert proportion([1, 0.5, 0]) == wilson(0.5, 3)


def test_a_bootstrap_of_many_rows_has_the_width_of_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = bootstrap_mean(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == values.mean()
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert bootstrap_mean(values) == found, "the seed is fixed"


def test_strata_are_drawn_apart():
    """Two constant strata vary not at all, though their union does."""
    parts = [np.zeros(5), np.ones(5)]
    found = bootstrap(parts, lambda strata: (strata[0].mean() + strata[1].mean()) / 2)
    assert found == (0.5, 0.5, 0.5, 10)
    assert bootstrap_mean(np.concatenate(parts)).low < 0.4


def test_one_row_has_no_interval():
    assert bootstrap_mean([3.0]) == (3.0, None, None, 1)
