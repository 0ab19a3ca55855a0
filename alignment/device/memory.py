"""Memory by phase of a run: what stays and what was needed at most, on the device or, on a CPU, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What makes Linux forget the peak of the resident memory (proc(5))."""


class Gauge(Protocol):
    """Where memory is read."""

    def read(self) -> tuple[int, int]:
        """Return (bytes now, most bytes since the last ``reset``)."""
        ...

    def reset(self) -> None:
        """Start a new peak."""
        ...


class HostGauge:
    """Resident memory of this process; zero where the system does not tell."""

    def __init__(self) -> None:
        self._floor = 0
        """A peak that is known to be old, where the kernel cannot reset it."""

    def read(self) -> tuple[int, int]:
        """See ``Gauge``. Where the peak cannot be reset, one below an older one counts as what is used now."""
        now, peak = _read_status()
        return now, peak if peak > self._floor else now

    def reset(self) -> None:
        """See ``Gauge``."""
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK)
        except OSError:
            self._floor = _read_status()[1]


class DeviceGauge:
    """Memory that Paddle has given out on this process's GPU."""

    def read(self) -> tuple[int, int]:
        """See ``Gauge``."""
        from paddle.device import cuda

        return cuda.memory_allocated(), cuda.max_memory_allocated()

    def reset(self) -> None:
        """See ``Gauge``."""
        from paddle.device import cuda

        cuda.reset_max_memory_allocated()


class MemoryWatch:
    """Peaks by phase until ``pop``; phases may nest, and the inner peak then counts in both."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._open: list[int] = []
        """The peaks so far of the phases that are going on."""
        self._found: dict[str, tuple[int, int]] = {}

    @classmethod
    def of(cls, device: str) -> MemoryWatch:
        """Return the watch for ``cpu`` or ``gpu``."""
        return cls(DeviceGauge() if device == "gpu" else HostGauge())

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the peak inside to ``name``, also when the body raises."""
        self._mark()
        self._open.append(self._gauge.read()[0])
        try:
            yield
        finally:
            self._mark()
            now, peak = self._gauge.read()[0], self._open.pop()
            if self._open:
                self._open[-1] = max(self._open[-1], peak)
            self._found[name] = now, max(peak, self._found.get(name, (0, 0))[1])

    def pop(self) -> dict[str, float]:
        """Return ``memory/NAME_gib`` (the peak) and ``memory/NAME_after_gib`` (what was left behind) and start anew."""
        metrics = {}
        for name, (now, peak) in self._found.items():
            metrics |= {f"memory/{name}_gib": peak / 2**30, f"memory/{name}_after_gib": now / 2**30}
        self._found = {}
        return metrics

    def _mark(self) -> None:
        """Charge what the gauge saw to the phases that are going on, and start a new peak."""
        peak = self._gauge.read()[1]
        if self._open:
            self._open[-1] = max(self._open[-1], peak)
        self._gauge.reset()


def _read_status() -> tuple[int, int]:
    """Return (resident bytes, their peak) of this process."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0, 0
    fields = dict(line.partition(":")[::2] for line in lines)
    now, peak = (int(fields.get(key, "0").split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    return now, peak
