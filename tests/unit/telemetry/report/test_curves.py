"""Thinning loses no spike and no NaN; the trend is that of the values."""

from __future__ import annotations

import pytest

from alignment.telemetry.report.curves import MAX_POINTS, fit_trend, focus, is_flat, thin_out


def test_few_points_stay_as_they_are():
    points = [(step, float(step % 7)) for step in range(MAX_POINTS)]
    assert thin_out(points) == points


def test_of_many_points_every_extreme_stays_in_order():
    points = [(step, float(step % 100)) for step in range(1, 12_346)]
    points[5_000] = (5_001, 900.0)
    points[7_000] = (7_001, -900.0)
    points[9_000] = (9_001, None)
    shown = thin_out(points)
    assert 0.8 * MAX_POINTS < len(shown) <= 1.05 * MAX_POINTS
    assert set(shown) <= set(points) and {points[5_000], points[7_000], points[9_000], points[0], points[-1]} <= set(
        shown
    )
    steps = [step for step, _ in shown]
    assert steps == sorted(set(steps))


def test_two_points_of_each_stretch_stay():
    points = [(step, float((-1) ** step * step)) for step in range(100)]
    assert len(thin_out(points, limit=20)) == 21  # two of each of ten stretches, and the last point
    assert thin_out([], limit=20) == []


def test_a_stretch_without_a_finite_value_keeps_its_first_point():
    points = [(step, None) for step in range(100)]
    assert thin_out(points, limit=4) == [(0, None), (50, None), (99, None)]


@pytest.mark.parametrize("count", [40, 399, 12_000])
def test_the_trend_of_a_line_is_the_line(count):
    steps, values = fit_trend([(10 * step, 3.0 * step - 5) for step in range(count)])
    assert 1 < len(steps) <= 400
    assert values == pytest.approx([0.3 * step - 5 for step in steps])


def test_a_spike_bends_the_trend_near_it_only():
    points = [(step, 1.0) for step in range(4_000)]
    points[2_000] = (2_000, 1e30)
    steps, values = fit_trend(points)
    assert values[:150] == [1.0] * 150 and values[-150:] == [1.0] * 150
    assert max(values) > 1e26


def test_what_is_flat():
    assert is_flat([]) and is_flat([(1, 2.0)]) and is_flat([(1, 2.0), (9, 2.0)]) and is_flat([(1, None), (2, None)])
    assert not is_flat([(1, 2.0), (2, 2.0000001)]) and not is_flat([(1, 2.0), (2, None)])


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([*range(100), 5000], (0, 98 + 24)),
        ([-5000, *range(100)], (1 - 24, 99)),
        ([*range(100), 5000, 6000], (0, 99 + 24.25)),
        ([*range(100), 5000, 5500, 6000], None),
        ([*range(100), 300], None),
        ([*range(18), 5000], None),
        ([0] * 50 + [5000], None),
        ([7] * 50, None),
        ([], None),
    ],
)
def test_a_few_far_values_are_left_out_of_the_range(values, shown):
    """One at each end of fewer than a hundred, two of a hundred and more."""
    assert focus(values) == shown
