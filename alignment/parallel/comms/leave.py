"""End a process that is one of several."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import sys
from types import ModuleType
from typing import NoReturn

from alignment.parallel.comms.guard import GUARDS, CommunicationError


def end_quietly() -> None:
    """Disable Paddle's signal handler, which prints a C++ stack trace even for the launcher's signals.

    A fault (SIGILL, SIGSEGV, SIGBUS, ...) still reports its kind and the Python line.
    """
    paddle = _import_paddle()
    paddle.disable_signal_handler()
    # Paddle's handler had replaced this one; enabling it again needs disabling it first.
    faulthandler.disable()
    faulthandler.enable(file=sys.__stderr__ or 2, all_threads=False)


def _import_paddle() -> ModuleType:
    """Import Paddle without looking for garbage meanwhile, nor in its hundred thousand objects later: they stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import paddle
    finally:
        if was_enabled:
            gc.enable()
    gc.freeze()
    return paddle


def leave(status: int, *, together: bool) -> NoReturn:
    """End this process with ``status``; with ``together`` all processes call this and wait for each other.

    Destructors of process groups are skipped: they have been seen to abort at exit. A failure of this last wait changes
    nothing: all work is done, and a process that has left closes its connections, perhaps before another one wakes up.
    """
    dist = sys.modules.get("paddle.distributed")
    if dist is None or not dist.is_initialized() or dist.get_world_size() == 1:
        sys.exit(status)
    if together:
        for guard in GUARDS:
            with contextlib.suppress(CommunicationError), guard.during("the wait for all processes to end"):
                dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
