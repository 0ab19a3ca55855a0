"""Write ``evaluation.html``: the results of ``alignment eval`` with rows to read; it works offline, as reports do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.telemetry.files import replace_file
from alignment.telemetry.report.page import render_page
from alignment.telemetry.report.sections import argument_rows, ledger_rows
from alignment.telemetry.tables import format_number


class EvaluationPage(NamedTuple):
    """What the page shows."""

    title: str
    tables: Sequence[Any]
    """Each has ``title``, ``columns`` and ``rows``."""
    notes: Sequence[str]
    samples: Sequence[Any]
    """Each has ``prompt`` and ``answers``, pairs of a heading and a text."""
    counts: Mapping[str, int]
    """Rows left out or used with a reservation, by name."""
    ledgers: Mapping[str, Any]
    """As in ledger.json."""
    arguments: Any
    """As in arguments.json."""


def write_evaluation(path: Path, content: EvaluationPage) -> None:
    """Write the page to ``path``."""
    page = render_page(
        "evaluation.html.jinja",
        [],
        title=content.title,
        folder=path.resolve().parent.name,
        tables=[_table(table) for table in content.tables],
        notes=content.notes,
        counts={name.replace("_", " "): count for name, count in content.counts.items() if count},
        samples=content.samples,
        ledger=ledger_rows(dict(content.ledgers)),
        arguments=argument_rows(content.arguments),
    )
    replace_file(path, page)


def _table(table: Any) -> tuple[str, list[tuple[str, bool]], list[list[tuple[str, bool]]]]:
    """Return the title, the columns and the rows; with every text whether it is that of a number."""
    rows = [[_cell(value) for value in row] for row in table.rows]
    numeric = [bool(rows) and all(row[index][1] for row in rows) for index in range(len(table.columns))]
    return table.title, [*zip(table.columns, numeric, strict=True)], rows


def _cell(value: Any) -> tuple[str, bool]:
    """Return a value as text, and whether it is a number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (format_number(value), True) if is_number else ("" if value is None else str(value), False)
