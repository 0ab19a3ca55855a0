"""Describe how a process ended."""

from __future__ import annotations

import signal

_HINTS = {
    signal.SIGILL: "the processor lacks an instruction that was used (python -m alignment doctor tries each operator)",
    signal.SIGBUS: "a memory-mapped file was truncated, or a disk or /dev/shm is full",
    signal.SIGKILL: "most often by the system, because memory ran out",
}


def describe_exit(status: int) -> str:
    """Return how a process with ``status`` ended, such as "failed with exit status 1" or "was ended by SIGILL (...)".

    ``status`` is as in subprocess and multiprocessing: negative for a signal.
    """
    if status >= 0:
        return f"failed with exit status {status}"
    try:
        name = signal.Signals(-status)
    except ValueError:
        return f"was ended by signal {-status}"
    hint = f": {_HINTS[name]}" if name in _HINTS else ""
    return f"was ended by {name.name} ({signal.strsignal(name)}){hint}"
