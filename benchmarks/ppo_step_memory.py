"""The peak of this process's resident memory during a piece of work, on Linux."""

from __future__ import annotations

import ctypes
from pathlib import Path

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Give freed memory back to the system, which an earlier variant may have kept, and start a new peak."""
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR_REFS.write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Return the most memory since ``reset_peak``."""
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
