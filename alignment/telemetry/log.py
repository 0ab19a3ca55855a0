"""Log to stderr (in colour on a terminal) and to ``output_dir/run.log``, through the logger ``alignment``.

Before ``configure`` only warnings appear, printed to stderr by the standard library.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from alignment.telemetry.console import stderr_console
from alignment.telemetry.files import readable_disk_errors

_logger = logging.getLogger("alignment")


def configure(*, output_dir: Path | None, is_main: bool) -> None:
    """Send log lines to stderr and, on the main rank, append them to ``output_dir/run.log``.

    Other ranks print only warnings. May be called again; earlier destinations are closed first. UserError if the file
    cannot be opened.
    """
    for handler in list(_logger.handlers):
        _logger.removeHandler(handler)
        handler.close()
    _logger.setLevel(logging.INFO if is_main else logging.WARNING)
    # Paddle installs a handler on the root logger: without this every line would appear twice.
    _logger.propagate = False
    # Paddle's handler would also show every request to a reward service.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _logger.addHandler(_StderrHandler())
    if output_dir is not None and is_main:
        path = Path(output_dir) / "run.log"
        with readable_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _logger.addHandler(_FileHandler(path, encoding="utf-8"))


def is_main() -> bool:
    """Return whether this is the process that reports to the user."""
    return _logger.level in (logging.NOTSET, logging.INFO)


def info(msg: str) -> None:
    """Log one line (main rank only)."""
    _logger.info("%s", msg)


def warn(msg: str) -> None:
    """Log one line marked as a warning (every rank)."""
    _logger.warning("%s", msg)


class _StderrHandler(logging.Handler):
    """Prints through the shared console on a terminal, and plain text without control characters elsewhere."""

    def emit(self, record: logging.LogRecord) -> None:
        time = logging.Formatter(datefmt="%H:%M:%S").formatTime(record, "%H:%M:%S")
        is_warning = record.levelno >= logging.WARNING
        mark = "warning: " if is_warning else ""
        from rich.markup import escape

        console = stderr_console()
        if console.is_terminal:
            style = "yellow" if is_warning else "default"
            console.print(f"[dim]{time}[/dim] [{style}]{mark}{escape(record.getMessage())}[/{style}]")
        else:
            print(f"[{time}] {mark}{record.getMessage()}", file=sys.stderr, flush=True)


class _FileHandler(logging.FileHandler):
    """Appends dated lines; after a write error it stops with one warning instead of a traceback per line."""

    def __init__(self, path: Path, encoding: str) -> None:
        super().__init__(path, encoding=encoding)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def handleError(self, record: logging.LogRecord) -> None:
        _logger.removeHandler(self)
        warn(f"cannot write {self.baseFilename}: {sys.exc_info()[1]}; log lines go to stderr only")
