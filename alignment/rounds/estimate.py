"""How long the steps took, and how long those that remain will take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from alignment.telemetry.progress import format_seconds

TIMES_FILE = "times.jsonl"


class Times:
    """The seconds of finished steps, kept over interruptions."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / TIMES_FILE
        self._seconds: dict[str, list[float]] = {}
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        for line in lines:
            try:
                record = json.loads(line)
                self._seconds.setdefault(record["stage"], []).append(float(record["seconds"]))
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a killed process has no end

    def add(self, step: str, stage: str, seconds: float) -> None:
        """Keep how long a step took."""
        self._seconds.setdefault(stage, []).append(seconds)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "stage": stage, "seconds": round(seconds, 3)}) + "\n")

    def left(self, stages: Iterable[str]) -> str:
        """Return about how long ``stages`` will take, by the mean of those before."""
        known, unknown = 0.0, False
        for stage in stages:
            if stage in self._seconds:
                known += fmean(self._seconds[stage])
            else:
                unknown = True
        return f"{'more than ' if unknown else 'about '}{format_seconds(known)} left"
