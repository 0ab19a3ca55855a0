"""What both sides of ``learning.py`` share: a CPU clock that stops for evaluations, and points of a curve."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS, POINTS = "settings.json", "points.json"
"""Files in the folder of a run."""


def cpu_seconds() -> float:
    """Return user and system seconds of this process, its threads and its finished children."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


class Curve:
    """Points of a run, each with the CPU seconds and the generated tokens of training so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens = 0
        self.points: list[dict[str, Any]] = []
        self._start = cpu_seconds()

    def start(self) -> None:
        """Count CPU seconds from now on."""
        self._start = cpu_seconds()

    @contextmanager
    def point(self, update: int) -> Iterator[dict[str, Any]]:
        """Add the point after ``update``; what is done inside costs nothing."""
        before = cpu_seconds()
        point = {"update": update, "cpu": before - self._start, "tokens": self.tokens}
        self.points.append(point)
        yield point
        self._start += cpu_seconds() - before

    def write(self) -> None:
        """Write the points into the folder."""
        write_points(self.folder, self.points)


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what a run is asked to do."""
    return json.loads((folder / SETTINGS).read_text(encoding="utf-8"))


def read_points(folder: Path) -> list[dict[str, Any]]:
    """Return the points of a run."""
    return json.loads((folder / POINTS).read_text(encoding="utf-8"))


def write_points(folder: Path, points: list[dict[str, Any]]) -> None:
    """Write the points of a run."""
    (folder / POINTS).write_text(json.dumps(points), encoding="utf-8")
