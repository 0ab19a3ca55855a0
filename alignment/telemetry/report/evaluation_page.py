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
        tables=[(t.title, t.columns, [[_cell(value) for value in row] for row in t.rows]) for t in content.tables],
        notes=content.notes,
        counts={name.replace("_", " "): count for name, count in content.counts.items() if count},
        samples=content.samples,
        ledger=ledger_rows(dict(content.ledgers)),
        arguments=argument_rows(content.arguments),
    )
    replace_file(path, page)


def _cell(value: Any) -> tuple[str, bool]:
    """Return a value as text, and whether it is a number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (format_number(value), True) if is_number else ("" if value is None else str(value), False)
