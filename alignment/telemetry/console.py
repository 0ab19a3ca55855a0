"""The console on stderr, shared by log lines and progress bar so that lines appear above the bar."""

from __future__ import annotations

import functools

from rich.console import Console


@functools.lru_cache(maxsize=1)
def stderr_console() -> Console:
    """Return the shared console; it looks up ``sys.stderr`` at every print."""
    return Console(stderr=True, highlight=False)
