"""Group the metrics of one or several runs into charts, leaving out those that never change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignment.telemetry.report.curves import TREND_FROM, finite_points, fit_trend, focus, is_flat, thin_out
from alignment.telemetry.report.explanations import HACKING, explain, groups
from alignment.telemetry.report.run_files import Point, step_range
from alignment.telemetry.tables import format_number

Series = Mapping[str, Sequence[Point]]
"""Metric name to points."""

NUM_COLOURS, NUM_DASHES = 8, 4
FRONTIERS = (
    # (value, names of the KL in order of preference): measured together comes first.
    ("train/reward", ("train/kl_divergence", "kl/k1")),
    ("eval/reward", ("eval/kl_divergence", "train/kl_divergence", "kl/k1")),
)
EVALUATION = "eval/"
MAX_DOTS = 400


class Line(NamedTuple):
    """One curve: a metric of one run."""

    run: str
    """Empty on the page of a single run."""
    name: str
    points: Sequence[Point]
    colour: int
    dash: int

    @property
    def label(self) -> str:
        """The run and the metric."""
        return f"{self.run}: {self.name}" if self.run else self.name

    @property
    def text(self) -> str:
        """The explanation of the metric."""
        return explain(self.name).text

    @property
    def last(self) -> str:
        """The last value, formatted."""
        return show(self.points[-1][1])

    @property
    def warning(self) -> str:
        """The number of NaN or infinite values and the first such step; empty if there are none."""
        return describe_damage(self.points)


class Chart(NamedTuple):
    """One chart: its heading, its lines, and the data for the script."""

    id: str
    title: str
    unit: str
    lines: list[Line]
    data: dict[str, Any]
    outside: str = ""
    """Which values the chart leaves out at first, because they would flatten the others; empty for none."""


class ChartGroup(NamedTuple):
    """Charts that belong together."""

    anchor: str
    title: str
    lead: str
    charts: list[Chart]


def show(value: float | None) -> str:
    """Return a formatted value; None stands for NaN or infinity."""
    return "NaN or infinite" if value is None else format_number(value)


def describe_damage(points: Sequence[Point]) -> str:
    """Return the number of NaN or infinite values and the first such step; empty if there are none."""
    damaged = [step for step, value in points if value is None]
    return f"{len(damaged)} NaN or infinite, first at step {damaged[0]}" if damaged else ""


def sort_names(runs: Mapping[str, Series]) -> list[str]:
    """Return the metrics of all ``runs``, in the order of the explanations."""
    names = {name for series in runs.values() for name in series}
    return sorted(names, key=lambda name: (explain(name).order, name))


def split_constants(runs: Mapping[str, Series]) -> tuple[dict[tuple[str, str, str], list[str]], list[str]]:
    """Return the metrics of each chart by (group, title, head), and the metrics of charts with only flat lines.

    For one run a chart shows all metrics with its title, and the head is empty. For several runs each metric has its
    own chart, except that an evaluation metric joins the chart of the first training metric, and that metrics which
    belong ``together`` stay so.
    """
    charts: dict[tuple[str, str, str], list[str]] = {}
    first: dict[tuple[str, str], str] = {}
    for name in sort_names(runs):
        explanation = explain(name)
        key = (explanation.group, explanation.title)
        head = first.setdefault(key, name) if name.startswith(EVALUATION) else name
        first.setdefault(key, name)
        is_split = len(runs) > 1 and not explanation.together
        charts.setdefault((*key, head if is_split else ""), []).append(name)
    flat = [key for key, names in charts.items() if all(is_flat(s.get(n, ())) for s in runs.values() for n in names)]
    constants = [name for key in flat for name in charts.pop(key)]
    return charts, constants


def build_groups(runs: Mapping[str, Series]) -> list[ChartGroup]:
    """Return all charts of ``runs`` (series by label, which is empty for a single run) by group."""
    charts, _ = split_constants(runs)
    ends = step_range([points for series in runs.values() for points in series.values()])
    by_group: dict[str, list[Chart]] = {group: [] for group in groups()}
    by_group[HACKING] += _frontiers(runs)
    everything = [(name, explain(name).title) for name in sort_names(runs)]
    for number, ((group, title, head), names) in enumerate(charts.items()):
        is_whole = all(name in names for name, of in everything if of == title)
        heading = title if is_whole or not head else f"{title}: {head}"
        lines = _lines(runs, names)
        unit = explain(names[0]).unit
        data, outside = _curve_data(lines, unit, ends)
        by_group[group].append(Chart(f"chart-{number}", heading, unit, lines, data, outside))
    return [
        ChartGroup(f"group-{number}", title, lead, by_group[title])
        for number, (title, lead) in enumerate(groups().items())
        if by_group[title]
    ]


def _lines(runs: Mapping[str, Series], names: Sequence[str]) -> list[Line]:
    """Return a line per run and metric; a single run has a colour per metric, several runs have a colour each."""
    lines = []
    for run_number, (run, series) in enumerate(runs.items()):
        for number, name in enumerate(names):
            colour, dash = (run_number, number) if len(runs) > 1 else (number, number // NUM_COLOURS)
            if series.get(name):
                lines.append(Line(run, name, series[name], colour % NUM_COLOURS, dash % NUM_DASHES))
    return lines


def _curve_data(lines: Sequence[Line], unit: str, ends: tuple[int, int] | None) -> tuple[dict[str, Any], str]:
    """Return the data for the script, and a remark on values outside its range.

    ``log``: whether all values are positive and span a factor of ten; ``range``: what is shown at first (default: all).
    """
    curves = [finite_points(line.points) for line in lines]
    values = [value for points in curves for _, value in points]
    data = {
        "kind": "curves",
        "unit": unit,
        "ends": list(ends or ()),
        "log": min(values) > 0 and max(values) >= 10 * min(values),
        "lines": [_curve(line) for line in lines],
    }
    shown = focus_lines([[value for _, value in points] for points in curves])
    if shown is None:
        return data, ""
    outside = [point for points in curves for point in points if not shown[0] <= point[1] <= shown[1]]
    middle = sum(shown) / 2
    step, farthest = max(outside, key=lambda point: abs(point[1] - middle))
    more = f"{len(outside)} values lie outside, the farthest" if len(outside) > 1 else "one value lies outside"
    return data | {"range": list(map(_short, shown))}, f"{more}: {show(farthest)} at update {step}"


def focus_lines(lines: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the range of the lines without their far values (see ``focus``); None where it is not much smaller."""
    ranges = [focus(values) or (min(values), max(values)) for values in lines if values]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    everything = [value for values in lines for value in values]
    return (low, high) if 2 * (high - low) < max(everything) - min(everything) else None


def _curve(line: Line) -> dict[str, Any]:
    """Return the points of a line and their trend, which far values do not bend."""
    shown, finite = thin_out(line.points), finite_points(line.points)
    limits = focus([value for _, value in finite])
    near = [point for point in finite if limits is None or limits[0] <= point[1] <= limits[1]]
    trend = [list(map(_short, part)) for part in fit_trend(near)] if len(near) >= TREND_FROM else None
    return {
        "colour": line.colour,
        "dash": line.dash,
        "x": [step for step, _ in shown],
        "y": [None if value is None else _short(value) for _, value in shown],
        "trend": trend,
    }


def _frontiers(runs: Mapping[str, Series]) -> list[Chart]:
    """Return charts of reward against KL, which tell reward hacking from progress.

    Gao et al. 2023: under reward hacking the true score falls while the reward trained on still rises.
    """
    charts = []
    for number, (name, kl_names) in enumerate(FRONTIERS):
        known = [kl for series in runs.values() if name in series for kl in kl_names if kl in series]
        kl = max(kl_names, key=known.count)
        paths = {run: _join(series.get(kl, ()), series.get(name, ())) for run, series in runs.items()}
        drawn = {run: path for run, path in paths.items() if path}
        if sum(map(len, drawn.values())) > 1:
            colours = {run: number % NUM_COLOURS for number, run in enumerate(runs)}
            lines = [Line(run, name, runs[run][name], colours[run], 0) for run in drawn]
            unit, kl_unit = explain(name).unit, explain(kl).unit
            data = {
                "kind": "path",
                "unit": unit,
                "x_label": f"{kl} ({kl_unit})",
                "lines": [_path(path, colours[run]) for run, path in drawn.items()],
            }
            for key, part in (("x_range", 1), ("range", 2)):
                shown = focus_lines([[point[part] for point in path] for path in drawn.values()])
                data |= {} if shown is None else {key: list(map(_short, shown))}
            charts.append(Chart(f"path-{number}", f"{name} bought with KL", unit, lines, data))
    return charts


def _path(path: Sequence[tuple[int, float, float]], colour: int) -> dict[str, Any]:
    shown = path[:: math.ceil(len(path) / MAX_DOTS)]
    shown = [*shown, path[-1]] if shown[-1] != path[-1] else shown
    steps, kls, values = zip(*shown, strict=True)
    return {"colour": colour, "step": steps, "x": list(map(_short, kls)), "y": list(map(_short, values))}


def _join(kl: Sequence[Point], values: Sequence[Point]) -> list[tuple[int, float, float]]:
    """Return (step, KL, value) with the KL of the same step or of the last step before."""
    known, triples, index = finite_points(kl), [], 0
    for step, value in finite_points(values):
        while index + 1 < len(known) and known[index + 1][0] <= step:
            index += 1
        if known and known[index][0] <= step:
            triples.append((step, known[index][1], value))
        elif known and step == 0:
            # An evaluation before training, when the policy is the reference.
            triples.append((step, 0.0, value))
    return triples


def _short(value: float) -> float:
    """Round to seven significant digits; the page shows four."""
    return float(f"{value:.7g}")
