"""Summarise the metrics of a run: cards, and a table row for each metric."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from alignment.telemetry.report.charts import EVALUATION, Series, describe_damage, show, sort_names, split_constants
from alignment.telemetry.report.curves import finite_points, is_flat
from alignment.telemetry.report.explanations import explain
from alignment.telemetry.report.run_files import Point
from alignment.telemetry.tables import format_number

SCORES = ("score", "squared score")
"""Units whose size depends on the reward source."""


class Card(NamedTuple):
    """One key number; ``before`` and ``change`` are empty if there is no earlier value."""

    label: str
    text: str
    """The explanation; empty if it is not a metric."""
    value: str
    before: str
    change: str


class MetricRow(NamedTuple):
    """One metric; ``cells`` has one entry per run."""

    name: str
    text: str
    unit: str
    group: str
    cells: list[Cell]
    is_comparable: bool = True
    """False for scores of different reward sources: none of them is the best."""


class Cell(NamedTuple):
    """A metric of one run; all empty if the run does not have the metric."""

    first: str = ""
    last: str = ""
    best: str = ""
    """Also empty if neither direction is better."""
    best_step: int | None = None
    warning: str = ""
    is_best: bool = False
    """Whether the last value is the best of all runs, if they differ."""


class MetricRows(NamedTuple):
    """All metrics: key ones with a better direction, others, and constant ones."""

    key: list[MetricRow]
    others: list[MetricRow]
    constants: list[MetricRow]


def summary_cards(summary: Mapping[str, Any]) -> list[Card]:
    """Return a card for every entry, which is a value or a pair (before, after)."""
    cards = []
    for label, value in summary.items():
        text = explain(label).text
        if isinstance(value, (tuple, list)) and len(value) == 2:
            before, after = value
            numeric = all(isinstance(end, (int, float)) for end in value)
            change = ("+" if after >= before else "") + format_number(after - before) if numeric else ""
            cards.append(Card(label, text, _show(after), _show(before), change))
        else:
            cards.append(Card(label, text, _show(value), "", ""))
    return cards


def evaluation_summary(series: Series) -> dict[str, Any]:
    """Return (first, last) value of each evaluation metric that has a better direction.

    A single value stands alone; metrics that never change are left out.
    """
    names = [name for name in sort_names({"": series}) if name.startswith(EVALUATION) and explain(name).better]
    values = {name: [value for _, value in finite_points(series[name])] for name in names if is_news(series[name])}
    return {name: (found[0], found[-1]) if len(found) > 1 else found[0] for name, found in values.items() if found}


def is_news(points: Sequence[Point]) -> bool:
    """Return whether ``points`` differ, or there is only one."""
    return len(points) == 1 or not is_flat(points)


def metric_rows(runs: Mapping[str, Series], sources: Sequence[Hashable] = ()) -> MetricRows:
    """Return a row for each metric of ``runs`` (series by label).

    ``sources`` says where the rewards of each run come from (empty: all from the same).
    """
    _, constants = split_constants(runs)
    key, others, dull = [], [], []
    for name in sort_names(runs):
        lines = [series.get(name, ()) for series in runs.values()]
        row = _row(name, lines, {source for source, points in zip(sources, lines, strict=False) if points})
        is_key = explain(name).better and any(is_news(series.get(name, ())) for series in runs.values())
        (key if is_key else dull if name in constants else others).append(row)
    return MetricRows(key, others, dull)


def _row(name: str, lines: Sequence[Sequence[Point]], sources: Collection[Hashable]) -> MetricRow:
    explanation = explain(name)
    cells = [_cell(points, explanation.better) for points in lines]
    lasts = [points[-1][1] if points else None for points in lines]
    finite = [value for value in lasts if value is not None]
    is_comparable = len(sources) < 2 or explanation.unit not in SCORES
    if explanation.better and is_comparable and len(set(finite)) > 1:
        best = _choose(explanation.better)(finite)
        cells = [cell._replace(is_best=last == best) for cell, last in zip(cells, lasts, strict=True)]
    return MetricRow(name, explanation.text, explanation.unit, explanation.group, cells, is_comparable)


def _cell(points: Sequence[Point], better: str) -> Cell:
    if not points:
        return Cell()
    cell = Cell(first=show(points[0][1]), last=show(points[-1][1]), warning=describe_damage(points))
    finite = finite_points(points)
    if not better or not finite:
        return cell
    step, value = _choose(better)(finite, key=lambda point: point[1])
    return cell._replace(best=show(value), best_step=step)


def _choose(better: str) -> Any:
    return max if better == "higher" else min


def _show(value: Any) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return format_number(value) if is_number else str(value)
