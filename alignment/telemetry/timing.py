"""Measure time and throughput of the named stages of a step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StageTimer:
    """Accumulates wall time by stage name until ``pop``; the time of a nested stage counts for both.

    On a GPU pass ``synchronize`` (such as ``paddle.device.synchronize``): kernels are queued, so without waiting for
    them their time would be charged to whichever stage waits next.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self._synchronize = synchronize
        self._seconds: dict[str, float] = defaultdict(float)
        self._counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to ``name``, even if the body raises."""
        start = self._read_clock()
        try:
            yield
        finally:
            self._seconds[name] += self._read_clock() - start

    def count(self, name: str, **units: int) -> None:
        """Add work done in stage ``name``: ``timer.count("rollout", tokens=123)``."""
        for unit, amount in units.items():
            self._counts[name][unit] += amount

    def pop(self) -> dict[str, float]:
        """Return ``time/NAME_seconds`` and ``time/NAME_UNIT_per_second`` since the last ``pop``, and reset.

        Work must only be counted for stages that were timed.
        """
        metrics = {f"time/{name}_seconds": seconds for name, seconds in self._seconds.items()}
        for name, units in self._counts.items():
            assert name in self._seconds, f"work was counted for stage {name!r}, which was never timed"
            for unit, amount in units.items():
                metrics[f"time/{name}_{unit}_per_second"] = amount / max(self._seconds[name], 1e-9)
        self._seconds.clear()
        self._counts.clear()
        return metrics

    def _read_clock(self) -> float:
        if self._synchronize is not None:
            self._synchronize()
        return time.perf_counter()
