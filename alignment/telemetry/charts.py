"""Line and scatter charts as inline SVG: no script, colours come from the style sheet of the page (light and dark)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

from markupsafe import Markup, escape

Point = tuple[float, float]

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 10, 34
MAX_POINTS = 400
SMOOTH_FROM = 40


def draw_line(points: Sequence[Point], *, x_label: str = "step") -> Markup:
    """Draw a curve through (step, value) points, sorted by step.

    From 40 points on the values are faint and their trend is drawn over them.
    """
    frame = _Frame(points, integer_x=True)
    shown = _thin_out(points)
    body = [frame.draw_axes(x_label, "")]
    if len(shown) == 1:
        body.append(frame.draw_dot(shown[0], "dot"))
    elif len(shown) < SMOOTH_FROM:
        body.append(frame.draw_path(shown, "line"))
        body.append(frame.draw_dot(shown[-1], "dot"))
    else:
        body.append(frame.draw_path(shown, "line faint"))
        body.append(frame.draw_path(_fit_trend(shown, max(6, len(shown) // 14)), "line"))
    return _wrap(body)


def draw_scatter(points: Sequence[Point], *, x_label: str, y_label: str) -> Markup:
    """Draw (x, y) points in the order of training: a faint path joins them, colour runs from first to last."""
    frame = _Frame(points, integer_x=False)
    shown = list(points[:: max(1, len(points) // MAX_POINTS)])
    body = [frame.draw_axes(x_label, y_label), frame.draw_path(shown, "line trail")]
    for index, point in enumerate(shown):
        age = index / max(1, len(shown) - 1)
        body.append(frame.draw_dot(point, "dot", style=f"fill:{_age_colour(age)}"))
    body.append(frame.draw_dot(shown[-1], "dot last", radius=4.5))
    return _wrap(body)


def nice_ticks(low: float, high: float, *, integer: bool = False) -> list[float]:
    """Return 3 to 7 round numbers (multiples of 1, 2, 2.5 or 5 times a power of ten) inside [low, high].

    ``integer`` allows whole numbers only; a narrow range then has fewer ticks.
    """
    magnitude = 10.0 ** math.floor(math.log10(high - low))
    for factor in (5.0, 2.5, 2.0, 1.0, 0.5, 0.25, 0.2, 0.1):
        step = factor * magnitude
        if integer:
            step = max(1.0, float(math.ceil(step)))
        ticks = [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        if len(ticks) >= 3 or (integer and step == 1.0):
            return ticks
    raise AssertionError(f"no ticks in [{low}, {high}]")


def format_tick(value: float, step: float) -> str:
    """Return a tick label with the digits that tell it from its neighbours ``step`` away."""
    if abs(value) < step / 2:
        return "0"
    if step < 1e-3 or max(abs(value), step) >= 1e9:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    size, suffix = next(
        ((size, suffix) for size, suffix in ((1e6, "M"), (1e3, "k")) if max(abs(value), step) >= size * 10), (1.0, "")
    )
    value, step = value / size, step / size
    decimals = next((digits for digits in range(9) if abs(step * 10**digits - round(step * 10**digits)) < 1e-6), 9)
    return f"{value:.{decimals}f}{suffix}"


class _Frame:
    """Maps data to pixels and draws axes, curves and dots in them."""

    def __init__(self, points: Sequence[Point], *, integer_x: bool) -> None:
        self.integer_x = integer_x
        self.x_low, self.x_high = _padded_range([x for x, _ in points], margin=0.0 if integer_x else 0.05)
        self.y_low, self.y_high = _padded_range([y for _, y in points], margin=0.06)

    def place(self, point: Point) -> Point:
        """Return the pixel of a data point."""
        across = (point[0] - self.x_low) / (self.x_high - self.x_low)
        up = (point[1] - self.y_low) / (self.y_high - self.y_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def draw_axes(self, x_label: str, y_label: str) -> str:
        """Return grid lines, tick labels and axis titles."""
        parts = []
        for label, (_, y) in self._ticks(self.y_low, self.y_high, lambda tick: (self.x_low, tick), integer=False):
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>')
        baseline = HEIGHT - BOTTOM
        for label, (x, _) in self._ticks(
            self.x_low, self.x_high, lambda tick: (tick, self.y_low), integer=self.integer_x
        ):
            parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{baseline}" y2="{baseline + 4}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{baseline + 15}" text-anchor="middle">{label}</text>')
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{baseline}" y2="{baseline}"/>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
        if y_label:
            parts.append(
                f'<text class="label" transform="translate(10 {(TOP + baseline) / 2}) rotate(-90)" '
                f'text-anchor="middle">{escape(y_label)}</text>'
            )
        return "".join(parts)

    def draw_path(self, points: Sequence[Point], css: str) -> str:
        """Return a line through the points."""
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.place, points))
        return f'<polyline class="{css}" points="{corners}"/>'

    def draw_dot(self, point: Point, css: str, *, radius: float = 3.0, style: str = "") -> str:
        """Return a filled circle."""
        x, y = self.place(point)
        return f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}" style="{style}"/>'

    def _ticks(
        self, low: float, high: float, position: Callable[[float], Point], *, integer: bool
    ) -> list[tuple[str, Point]]:
        ticks = nice_ticks(low, high, integer=integer)
        step = ticks[1] - ticks[0] if len(ticks) > 1 else (high - low)
        return [(format_tick(tick, step), self.place(position(tick))) for tick in ticks]


def _padded_range(values: Sequence[float], *, margin: float) -> tuple[float, float]:
    """Return limits around the values, never of zero width."""
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(1.0, -low, high):
        pad = max(abs(low) * 0.1, 1e-6) if low else 1.0
        return low - pad, high + pad
    return low - margin * (high - low), high + margin * (high - low)


def _thin_out(points: Sequence[Point]) -> list[Point]:
    """Keep the lowest and the highest point of each of 200 slices, so that spikes stay visible."""
    if len(points) <= MAX_POINTS:
        return list(points)
    num_slices = MAX_POINTS // 2
    kept: list[Point] = []
    for _, chunk in groupby(enumerate(points), key=lambda item: item[0] * num_slices // len(points)):
        members = [point for _, point in chunk]
        extremes = {min(members, key=lambda p: p[1]), max(members, key=lambda p: p[1])}
        kept.extend(sorted(extremes))
    return kept


def _fit_trend(points: Sequence[Point], half_width: int) -> list[Point]:
    """Fit a straight line in a window around each point: unlike a moving mean it does not bend at the ends."""
    trend = []
    for index, (x, _) in enumerate(points):
        window = points[max(0, index - half_width) : index + half_width + 1]
        x_mean = sum(px for px, _ in window) / len(window)
        y_mean = sum(py for _, py in window) / len(window)
        spread = sum((px - x_mean) ** 2 for px, _ in window)
        slope = sum((px - x_mean) * (py - y_mean) for px, py in window) / spread if spread else 0.0
        trend.append((x, y_mean + slope * (x - x_mean)))
    return trend


def _age_colour(age: float) -> str:
    """Return a colour from blue (0, first step) to orange (1, last step), readable on light and dark ground."""
    first, last = (86, 143, 214), (224, 122, 46)
    red, green, blue = (round(a + (b - a) * age) for a, b in zip(first, last, strict=True))
    return f"rgb({red},{green},{blue})"


def _wrap(body: Sequence[str]) -> Markup:
    # Every piece was built here from numbers and escaped labels.
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(body)}</svg>')
