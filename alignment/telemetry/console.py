"""The console on stderr, shared by log lines and progress bar so that lines appear above the bar.

Here and in its siblings rich is imported at first use, so that wrong arguments are told before it is there.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@functools.lru_cache(maxsize=1)
def stderr_console() -> Console:
    """Return the shared console; it looks up ``sys.stderr`` at every print."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)
