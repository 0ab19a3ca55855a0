"""Show the progress of a run: a bar with the remaining time on a terminal, one line per logging step elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from alignment.telemetry.console import stderr_console
from alignment.telemetry.log import info
from alignment.telemetry.tables import format_number

if TYPE_CHECKING:
    from rich import progress as rich_progress

WIDE = 160
"""The minimum width of a terminal, in columns, to show everything."""
NUM_SHOWN_NARROW = 2


class Progress:
    """Counts steps from ``start`` to ``total`` and shows the latest key numbers.

    With ``enabled`` and a terminal on stderr it is a live bar. Otherwise each ``advance`` with numbers becomes one log
    line, on the main rank only.
    """

    def __init__(self, total: int, description: str, *, enabled: bool, start: int = 0) -> None:
        self.total = total
        self.description = description
        self.completed = start
        self._start = start
        self._started_at = time.monotonic()
        self._bar = _make_bar() if enabled and stderr_console().is_terminal else None
        self._task: Any = None
        self._num_shown = None if self._bar is None or _is_wide() else NUM_SHOWN_NARROW

    def __enter__(self) -> Progress:
        self._started_at = time.monotonic()
        if self._bar is not None:
            from rich.markup import escape

            self._bar.start()
            self._task = self._bar.add_task(
                escape(self.description), total=self.total, completed=self.completed, shown=""
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, steps: int = 1, /, **shown: Any) -> None:
        """Count ``steps`` more; ``shown`` are the numbers to display by name (``reward=0.31, kl=0.02``)."""
        self.completed += steps
        numbers = "  ".join(
            f"{name} {value if isinstance(value, str) else format_number(value)}"
            for name, value in list(shown.items())[: self._num_shown]
        )
        if self._bar is not None:
            from rich.markup import escape

            self._bar.update(self._task, completed=self.completed, **({"shown": escape(numbers)} if numbers else {}))
        elif numbers:
            info(self._line(numbers))

    def _line(self, numbers: str) -> str:
        elapsed = time.monotonic() - self._started_at
        done, left = self.completed - self._start, self.total - self.completed
        percent = 100 * self.completed / max(self.total, 1)
        time_left = format_seconds(elapsed / done * left) if done > 0 else "?"
        width = len(str(self.total))
        return (
            f"{self.description} {self.completed:>{width}}/{self.total} ({percent:.0f}%)  {numbers}  "
            f"elapsed {format_seconds(elapsed)}  left {time_left}"
        )


def format_seconds(seconds: float) -> str:
    """Return ``h:mm:ss`` (days counted in hours)."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _is_wide() -> bool:
    """Return whether a long bar and all numbers fit on one line of the terminal."""
    return stderr_console().width >= WIDE


def _make_bar() -> rich_progress.Progress:
    from rich import progress as rich_progress
    from rich.table import Column

    return rich_progress.Progress(
        rich_progress.TextColumn("[bold]{task.description}"),
        rich_progress.BarColumn(bar_width=30 if _is_wide() else 12),
        rich_progress.TaskProgressColumn(),
        rich_progress.MofNCompleteColumn(),
        # Only this column may wrap, so that a narrow terminal still shows the bar and the remaining time.
        rich_progress.TextColumn("{task.fields[shown]}", style="cyan", table_column=Column()),
        rich_progress.TextColumn("[dim]left"),
        rich_progress.TimeRemainingColumn(),
        # The time of a step varies with the length of its rollout, so estimate over a long period.
        speed_estimate_period=600.0,
        console=stderr_console(),
    )
