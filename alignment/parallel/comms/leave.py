"""The end of a process of a layout."""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import NoReturn


def end_quietly() -> None:
    """Let signals end this process without the page of C++ that Paddle's handler prints: the launcher sends them.

    A fault (SIGILL, SIGSEGV, SIGBUS, ...) still says what it is and at which line of Python it happened.
    """
    import paddle

    paddle.disable_signal_handler()
    # Paddle's handler stood in place of this one; switching on what is on changes nothing.
    faulthandler.disable()
    faulthandler.enable(file=sys.__stderr__ or 2, all_threads=False)


def leave(status: int, *, together: bool) -> NoReturn:
    """End this process with ``status``; ``together``: all processes end here, and wait for each other.

    Process groups are not taken apart: their destructors were seen to abort at exit, after everything that matters
    was written.
    """
    dist = sys.modules.get("paddle.distributed")
    if dist is None or not dist.is_initialized() or dist.get_world_size() == 1:
        sys.exit(status)
    if together:
        dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
