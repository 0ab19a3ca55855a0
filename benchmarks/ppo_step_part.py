"""A peer's step measured in part: some of its micro-batches, whose seconds are scaled by the counted work.

Torch's padded way takes hours on the ragged workloads of the 110M model, and its micro-batches differ in nothing but
their shapes, so a few say what all take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ppo_step_flops import FORWARD, Pass, Rows, count_flops

Clocks = tuple[float, float]
"""Wall and CPU seconds."""


class Part:
    """Which pieces of each phase a side measures, and what the measured seconds stand for."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self.shares: dict[str, float] = {}
        """By phase: the measured share of its FLOP."""
        self._apart: dict[str, Clocks] = {}

    def choose(self, phase: str, pieces: Iterable[Rows], count: int) -> list[int]:
        """Return the numbers of ``count`` of the ``pieces``, evenly spread; 0: of all of them."""
        work = [count_flops(self._sizes, [Pass(rows, FORWARD, True)]) for rows in pieces]
        chosen = spread(len(work), count)
        self.shares[phase] = sum(work[i] for i in chosen) / sum(work)
        return chosen

    def start(self) -> None:
        """Forget the seconds of the step before."""
        self._apart.clear()

    @contextmanager
    def once(self, phase: str) -> Iterator[None]:
        """Mark work of ``phase`` that is not of a micro-batch, such as the optimizer's: it is not scaled."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        before = self._apart.get(phase, (0.0, 0.0))
        self._apart[phase] = (before[0] + time.perf_counter() - wall, before[1] + time.process_time() - cpu)

    def whole(self, seconds: Mapping[str, Clocks]) -> dict[str, Clocks]:
        """Return what all pieces of each phase would take."""
        return {phase: self._scale(phase, clocks) for phase, clocks in seconds.items()}

    def _scale(self, phase: str, clocks: Clocks) -> Clocks:
        share, apart = self.shares.get(phase, 1.0), self._apart.get(phase, (0.0, 0.0))
        wall, cpu = ((clock - once) / share + once for clock, once in zip(clocks, apart, strict=True))
        return wall, cpu


def spread(total: int, count: int) -> list[int]:
    """Return ``count`` numbers below ``total``, the middles of as many equal parts; 0 or too many: all."""
    if not 0 < count < total:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def pick(items: Sequence, numbers: Sequence[int]) -> list:
    """Return the ``items`` with the given numbers."""
    return [items[i] for i in numbers]


def whole_seconds(side: object) -> Callable[[Mapping[str, Clocks]], Mapping[str, Clocks]]:
    """Return what turns a side's measured seconds into those of its whole step."""
    part = getattr(side, "part", None)
    return part.whole if part is not None else lambda seconds: seconds
