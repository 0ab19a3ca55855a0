"""Charts: ticks are round and inside, data lands on the right pixels, nothing breaks on odd series."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.telemetry.charts import (
    HEIGHT,
    WIDTH,
    _age_colour,
    _padded_range,
    draw_line,
    draw_scatter,
    format_tick,
    nice_ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 10, [0, 5, 10]), (0, 9.2, [0, 2.5, 5, 7.5]), (-1.1, 1.1, [-1, 0, 1]), (0.3, 0.64, [0.3, 0.4, 0.5, 0.6])],
)
def test_nice_ticks(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_integer_ticks_are_whole():
    assert nice_ticks(1, 3, integer=True) == [1, 2, 3]
    assert nice_ticks(3, 4, integer=True) == [3, 4]


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_3_to_7_and_inside(low, width):
    high = low + width
    if (high - low) < 1e-9 * abs(low):
        return
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 7
    slack = 1e-6 * width
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (0.25, 0.25, "0.25"),
        (1.0, 0.5, "1.0"),
        (5e-6, 5e-6, "5e-6"),
        (-1e-18, 0.5, "0"),
        (20_000, 10_000, "20k"),
        (25_500_000, 500_000, "25.5M"),
        (50, 25, "50"),
        (0.3 - 0.1, 0.1, "0.2"),
        (12_345, 1, "12.345k"),
        (3e10, 1e10, "3e10"),
        (250_000, 250_000, "250k"),
        (9_500, 500, "9500"),
    ],
)
def test_format_tick(value, step, text):
    assert format_tick(value, step) == text


def circles(svg):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]*cx="([-\d.]+)" cy="([-\d.]+)"', str(svg))]


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.floats(-1e12, 1e12)), min_size=1, max_size=60, unique_by=lambda p: p[0]
    )
)
def test_every_series_gives_wellformed_svg_inside_the_frame(points):
    svg = draw_line(sorted(points))
    root = ElementTree.fromstring(str(svg))
    for line in root.iter("polyline"):
        for corner in line.get("points").split():
            x, y = map(float, corner.split(","))
            assert 0 <= x <= WIDTH
            assert -HEIGHT <= y <= 2 * HEIGHT  # a fitted trend may leave the data's range a little


def test_a_higher_value_is_drawn_higher_and_later_steps_further_right():
    (first_x, first_y), (middle_x, middle_y), (last_x, last_y) = circles(
        draw_scatter([(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)], x_label="kl", y_label="reward")
    )[:3]
    assert first_x < middle_x < last_x
    assert middle_y < last_y < first_y


def test_spikes_survive_thinning():
    points = [(step, 0.0) for step in range(10_000)]
    points[7_777] = (7_777, 50.0)
    faint = re.search(r'class="line faint" points="([^"]*)"', str(draw_line(points))).group(1).split()
    assert len(faint) <= 400
    heights = [float(corner.split(",")[1]) for corner in faint]
    assert min(heights) < HEIGHT / 4 < max(heights)


def test_trend_of_a_straight_line_is_the_line():
    curves = re.findall(r'points="([^"]*)"', str(draw_line([(step, 2.0 * step) for step in range(60)])))
    assert curves[0] == curves[1]


def test_labels_are_escaped():
    svg = draw_scatter([(0, 0), (1, 1)], x_label="<kl>", y_label='"&')
    assert "<kl>" not in svg
    ElementTree.fromstring(str(svg))


@pytest.mark.parametrize(("count", "is_smoothed"), [(39, False), (40, True)])
def test_from_forty_points_on_the_trend_is_drawn(count, is_smoothed):
    picture = str(draw_line([(step, float(step)) for step in range(count)]))
    assert ('class="line faint"' in picture) == is_smoothed
    if not is_smoothed:
        [(x, _)] = circles(picture)
        corners = re.search(r'class="line" points="([^"]*)"', picture)[1].split()
        assert x == pytest.approx(float(corners[-1].split(",")[0])), "the dot stands at the newest point"


def test_age_runs_from_blue_to_orange():
    assert [_age_colour(age) for age in (0.0, 0.5, 1.0)] == ["rgb(86,143,214)", "rgb(155,132,130)", "rgb(224,122,46)"]


@pytest.mark.parametrize("value", [1e6, -1e6])
def test_values_that_differ_by_rounding_alone_are_one_value(value):
    low, high = _padded_range([value, value + 1e-7], margin=0.05)
    assert (low, high) == (pytest.approx(value - 1e5), pytest.approx(value + 1e5))


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.0], (-1.0, 1.0)), ([2.0], (1.8, 2.2)), ([1.0, 3.0], (0.9, 3.1)), ([-4], (-4.4, -3.6))],
)
def test_limits_stand_around_the_values(values, expected):
    assert _padded_range(values, margin=0.05) == pytest.approx(expected)
