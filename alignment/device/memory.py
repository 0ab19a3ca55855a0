"""Measure memory by phase of a run, what remains and the peak, on the device or (CPU) in this process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = b"5"
"""Resets the peak of the resident memory on Linux (proc(5))."""


class Gauge(Protocol):
    """Reads memory."""

    def read(self) -> tuple[int, int]:
        """Return (bytes now, peak bytes since the last ``reset``)."""
        ...

    def reset(self) -> None:
        """Start a new peak."""
        ...


class HostGauge:
    """Resident memory of this process; zero if the system does not report it."""

    def __init__(self) -> None:
        self._floor = 0
        """A peak from before the last ``reset``, if the kernel cannot reset it."""

    def read(self) -> tuple[int, int]:
        """See ``Gauge``. If the peak cannot be reset, only a new maximum is reported, else the current value."""
        now, peak = _read_status()
        return now, peak if peak > self._floor else now

    def reset(self) -> None:
        """See ``Gauge``."""
        try:
            _write_at_once(_CLEAR_REFS, _RESET_PEAK)
        except OSError:
            self._floor = _read_status()[1]


class BesidePaddle:
    """Memory of the device that a library of this process has taken from it directly."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def change(self, num_bytes: int) -> None:
        """Count ``num_bytes`` more, or less."""
        self.now += num_bytes
        self.most = max(self.most, self.now)


BESIDE_PADDLE = BesidePaddle()


class DeviceGauge:
    """Memory of this process on its GPU: what Paddle has allocated and what is beside it.

    Where the latter changes within a phase, the sum of both peaks is more than was ever in use.
    """

    def read(self) -> tuple[int, int]:
        """See ``Gauge``."""
        from paddle.device import cuda

        return cuda.memory_allocated() + BESIDE_PADDLE.now, cuda.max_memory_allocated() + BESIDE_PADDLE.most

    def reset(self) -> None:
        """See ``Gauge``."""
        from paddle.device import cuda

        cuda.reset_max_memory_allocated()
        BESIDE_PADDLE.most = BESIDE_PADDLE.now


class MemoryWatch:
    """Records peaks by phase until ``pop``; phases may be nested, and an inner peak counts in both."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._open: list[int] = []
        """The peaks so far of the open phases."""
        self._found: dict[str, tuple[int, int]] = {}

    @classmethod
    def of(cls, device: str) -> MemoryWatch:
        """Return the watch for ``cpu`` or ``gpu``."""
        return cls(DeviceGauge() if device == "gpu" else HostGauge())

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attribute the peak to ``name``, even if the body raises."""
        self._open.append(self._mark())
        try:
            yield
        finally:
            now, peak = self._mark(), self._open.pop()
            if self._open:
                self._open[-1] = max(self._open[-1], peak)
            self._found[name] = now, max(peak, self._found.get(name, (0, 0))[1])

    def pop(self) -> dict[str, float]:
        """Return and reset ``memory/NAME_gib`` (the peak) and ``memory/NAME_after_gib`` (in use at the end)."""
        metrics = {}
        for name, (now, peak) in self._found.items():
            metrics |= {f"memory/{name}_gib": peak / 2**30, f"memory/{name}_after_gib": now / 2**30}
        self._found = {}
        return metrics

    def _mark(self) -> int:
        """Add the gauge's peak to the open phases and reset it; return what is in use."""
        now, peak = self._gauge.read()
        if self._open:
            self._open[-1] = max(self._open[-1], peak)
        self._gauge.reset()
        return now


def _read_at_once(path: Path) -> bytes:
    """Return a small file of the system's; a file object would take longer than the system, many times a step."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)


def _write_at_once(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _read_status() -> tuple[int, int]:
    """Return (resident bytes, their peak) of this process."""
    try:
        status = _read_at_once(_STATUS)
    except OSError:
        return 0, 0
    now, peak = (int((status.partition(key)[2].split(maxsplit=1) or [0])[0]) * 1024 for key in (b"VmRSS:", b"VmHWM:"))
    return now, peak
