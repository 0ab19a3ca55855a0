"""Print tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from alignment.telemetry import log

if TYPE_CHECKING:
    from rich.text import Text

_WIDTH_WITHOUT_TERMINAL = 120


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table to stdout (main rank only), with numbers right-aligned as by ``format_number``, and text wrapped.

    Each row has one value per column. Square brackets in text are not markup.
    """
    if not log.is_main():
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)
    cells = [[_format_cell(value) for value in row] for row in rows]
    assert all(len(row) == len(columns) for row in cells), f"every row of {title!r} needs {len(columns)} values"
    table = Table(title=Text(title, style="bold"), title_justify="left")
    for index, column in enumerate(columns):
        numeric = bool(cells) and all(row[index].justify == "right" for row in cells)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    console.print(table)


def format_number(value: Any) -> str:
    """Return a readable number: 4 significant digits with thousands separators; integers in full."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    value = float(value) + 0.0  # no -0
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:.4g}"


def _format_cell(value: Any) -> Text:
    from rich.text import Text

    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number:
        return Text(format_number(value), justify="right")
    return Text("" if value is None else str(value))
