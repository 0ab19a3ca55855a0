"""Progress of a run: a bar with time left on a terminal, one plain line a logging step elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich import progress as rich_progress
from rich.markup import escape
from rich.table import Column

from alignment.telemetry.console import stderr_console
from alignment.telemetry.log import info
from alignment.telemetry.tables import format_number

WIDE = 160
"""Columns of a terminal from which on everything is shown."""
NUM_SHOWN_NARROW = 2


class Progress:
    """Counts steps from ``start`` to ``total`` and shows the newest key numbers.

    With ``enabled`` and a terminal on stderr: one live bar. Otherwise each ``advance`` that brings numbers to show
    becomes one log line, without control characters; ranks other than the main one stay silent.
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
        """Count ``steps`` more; ``shown`` names the numbers to display (``reward=0.31, kl=0.02``)."""
        self.completed += steps
        numbers = "  ".join(f"{name} {_format_shown(value)}" for name, value in list(shown.items())[: self._num_shown])
        if self._bar is not None:
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


def _format_shown(value: Any) -> str:
    return value if isinstance(value, str) else format_number(value)


def _is_wide() -> bool:
    """Return whether the terminal holds a long bar and all numbers on one line."""
    return stderr_console().width >= WIDE


def _make_bar() -> rich_progress.Progress:
    return rich_progress.Progress(
        rich_progress.TextColumn("[bold]{task.description}"),
        rich_progress.BarColumn(bar_width=30 if _is_wide() else 12),
        rich_progress.TaskProgressColumn(),
        rich_progress.MofNCompleteColumn(),
        # The one column that may wrap: a narrow terminal must not cost the bar or the time left.
        rich_progress.TextColumn("{task.fields[shown]}", style="cyan", table_column=Column()),
        rich_progress.TextColumn("[dim]left"),
        rich_progress.TimeRemainingColumn(),
        # The speed of a step varies with the length of its rollout: estimate from many of them, not the last seconds.
        speed_estimate_period=600.0,
        console=stderr_console(),
    )
