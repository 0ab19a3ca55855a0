"""Thin out the points of a curve, and fit a trend to noisy ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from alignment.telemetry.report.run_files import Point

MAX_POINTS = 1200
"""Curves with more points are thinned out: a chart is about 400 pixels wide."""
TREND_FROM = 40
"""Curves with fewer points get no trend."""
TREND_BUCKETS = 400
FOCUS_FROM = 20
"""Of fewer values none is called far from the others."""
FAR = 4
Finite = tuple[int, float]


def finite_points(points: Sequence[Point]) -> list[Finite]:
    """Return the points whose value is finite."""
    return [(step, value) for step, value in points if value is not None]


def is_flat(points: Sequence[Point]) -> bool:
    """Return whether ``points`` have at most one distinct value."""
    values = {value for _, value in points}
    return len(values) <= 1


def focus(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the range in which all ``values`` but a few far ones lie, with some room; None where none is far.

    Far are at most two of a hundred (or one, where there are fewer) at either end, when they stretch the range to more
    than ``FAR`` times its width without them.
    """
    ordered, away = sorted(values), max(1, len(values) // 50)
    if len(values) < FOCUS_FROM:
        return None
    low, high = ordered[away], ordered[-1 - away]
    width = high - low
    if not 0 < FAR * width < ordered[-1] - ordered[0]:
        return None
    room = width / 4
    return max(low - room, ordered[0]), min(high + room, ordered[-1])


def thin_out(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Return at most about ``limit`` of the ``points``, keeping spikes and NaNs.

    Kept are both ends of the curve and, of each stretch of equally many points, the smallest, the largest and the first
    that is not finite.
    """
    if len(points) <= limit:
        return list(points)
    size = -(-2 * len(points) // limit)
    kept = {points[0], points[-1]}
    for start in range(0, len(points), size):
        kept.update(_telling(points[start : start + size]))
    return sorted(kept, key=lambda point: point[0])


def fit_trend(points: Sequence[Finite]) -> tuple[list[float], list[float]]:
    """Return (steps, values) of a trend: at each step the line fitted to the points around it.

    The window is a seventh of the points; unlike a moving mean a line has no bias at the ends. More than
    ``TREND_BUCKETS`` points are first averaged in groups of neighbours.
    """
    size = -(-len(points) // TREND_BUCKETS)
    means = [_mean(points[start : start + size]) for start in range(0, len(points), size)]
    half = max(6, len(means) // 14)
    windows = [means[max(0, index - half) : index + half + 1] for index in range(len(means))]
    return [x for x, _ in means], [_fit_at(x, window) for (x, _), window in zip(means, windows, strict=True)]


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _fit_at(x: float, window: Sequence[tuple[float, float]]) -> float:
    """Return the value at ``x`` of the least-squares line through ``window``."""
    x_mean, y_mean = _mean(window)
    spread = sum((px - x_mean) ** 2 for px, _ in window)
    slope = sum((px - x_mean) * (py - y_mean) for px, py in window) / spread if spread else 0.0
    return y_mean + slope * (x - x_mean)


def _telling(stretch: Sequence[Point]) -> Iterator[Point]:
    finite = finite_points(stretch)
    if finite:
        yield min(finite, key=lambda point: point[1])
        yield max(finite, key=lambda point: point[1])
    yield from [point for point in stretch if point[1] is None][:1]
