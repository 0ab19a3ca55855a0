"""What an evaluation found: numbers with intervals, tables, rows to read, and the account of all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from alignment.evaluation.intervals import IntervalEstimate
from alignment.telemetry.tables import format_number


class ResultTable(NamedTuple):
    """A table of results."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Sample(NamedTuple):
    """A row to read."""

    prompt: str
    answers: Sequence[tuple[str, str]]
    """What stands above each answer (whose it is, its score), and the answer."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of an evaluation."""

    title: str
    metrics: Mapping[str, IntervalEstimate | float | None]
    """Name to a number with its interval, a number, or None where it cannot be computed (``notes`` says why)."""
    tables: Sequence[ResultTable] = ()
    notes: Sequence[str] = ()
    samples: Sequence[Sample] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows that were left out, or used with a reservation, by name."""
    ledgers: Mapping[str, Any] = field(default_factory=dict)
    """The accounts of the datasets, by role, as in ledger.json."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON data."""
        metrics = {
            name: value._asdict() if isinstance(value, IntervalEstimate) else value
            for name, value in self.metrics.items()
        }
        return {
            "metrics": metrics,
            "tables": [table._asdict() for table in self.tables],
            "notes": list(self.notes),
            "counts": dict(self.counts),
            "ledgers": dict(self.ledgers),
        }

    def metric_table(self, confidence: float) -> ResultTable:
        """Return the metrics, a row each."""
        rows = [[name, *_cells(value)] for name, value in self.metrics.items()]
        return ResultTable(self.title, ["metric", "value", interval_title(confidence), "rows"], rows)


def interval_title(confidence: float) -> str:
    """Return the heading of a column of intervals."""
    return f"{100 * confidence:g} % interval"


def interval_text(estimate: IntervalEstimate | None) -> str:
    """Return an interval as text; empty if there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{format_number(estimate.low)} to {format_number(estimate.high)}"


def both_ends(ranked: Sequence[Any], count: int) -> list[Any]:
    """Return the first and the last of ``ranked``, ``count`` in all."""
    if len(ranked) <= count:
        return [*ranked]
    first = (count + 1) // 2
    return [*ranked[:first], *ranked[len(ranked) - (count - first) :]]


def count_cut_off(rows: Sequence[Mapping[str, Any]], name: str = "finish_reasons") -> int:
    """Return how many answers of ``rows`` ended because of their length."""
    return sum(row[name].count("length") for row in rows)


def _cells(value: IntervalEstimate | float | None) -> list[Any]:
    if isinstance(value, IntervalEstimate):
        return [format_number(value.value), interval_text(value), format_number(value.count)]
    return ["-" if value is None else format_number(value), "", ""]
