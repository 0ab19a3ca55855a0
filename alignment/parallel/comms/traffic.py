"""Count the bytes that this process sends, by phase of the run and kind of message."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator


class Traffic:
    """Counts bytes sent by (phase, group, operation); a phase is what the loop is doing."""

    def __init__(self) -> None:
        self.phase = "start"
        self._bytes: dict[tuple[str, str, str], int] = defaultdict(int)
        self._calls: dict[tuple[str, str, str], int] = defaultdict(int)

    def add(self, group: str, operation: str, num_bytes: int) -> None:
        """Count one message of ``num_bytes`` bytes sent by this process."""
        key = (self.phase, group, operation)
        self._bytes[key] += num_bytes
        self._calls[key] += 1

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count messages sent inside under ``phase``."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def rows(self) -> list[tuple[str, str, str, int, int]]:
        """Return (phase, group, operation, messages, bytes), sorted."""
        return [(*key, self._calls[key], self._bytes[key]) for key in sorted(self._bytes)]

    def pop(self) -> dict[str, float]:
        """Return ``traffic/PHASE_GROUP_mib``, the MiB sent since the last ``pop``, and reset the counts."""
        metrics: dict[str, float] = defaultdict(float)
        for phase, group, _, _, num_bytes in self.rows():
            metrics[f"traffic/{phase}_{group}_mib"] += num_bytes / 2**20
        self.clear()
        return dict(metrics)

    def clear(self) -> None:
        """Reset the counts."""
        self._bytes.clear()
        self._calls.clear()
