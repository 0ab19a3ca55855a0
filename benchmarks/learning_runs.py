"""The judged runs of ``learning.py``, read from their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from hacked import Evaluation, is_hacked
from learning_work import POINTS, SETTINGS

START = "start"
"""The arm without training."""
KINDS = ("score", "greedy")
"""Kinds of answers that are judged: sampled and greedy."""


class Run(NamedTuple):
    """A judged run; its first point is the supervised policy."""

    arm: str
    task: str
    seed: int
    points: list[dict[str, Any]]
    told: dict[str, int]
    """Kinds of signs that the alarm told, with the update."""

    @property
    def scores(self) -> list[float]:
        """The sampled true scores."""
        return [point["score"] for point in self.points]

    def curve(self, kind: str, last: int | None = None) -> list[Evaluation]:
        """Return the evaluations of answers that are sampled (``score``) or ``greedy``, up to update ``last``.

        Points that were judged before 2026-11-30 have no reward of these answers and are left out.
        """
        points = [point for point in self.points if last is None or point["update"] <= last]
        return [Evaluation(p[f"{kind}_reward"], p[f"{kind}_rows"]) for p in points if f"{kind}_reward" in p]

    def is_hacked(self, last: int | None = None) -> bool:
        """Return whether the run hacked, at update ``last`` or at its end."""
        return is_hacked([self.curve(kind, last) for kind in KINDS])

    def cost_of(self, score: float, what: str) -> float | None:
        """Return where the curve first reaches ``score``, between points on a straight line; None: nowhere."""
        for before, after in zip(self.points, self.points[1:], strict=False):
            if after["score"] >= score:
                share = (score - before["score"]) / (after["score"] - before["score"])
                return before[what] + max(0.0, share) * (after[what] - before[what])
        return None


def read_runs(work: Path) -> list[Run]:
    """Return the judged runs below ``work``."""
    starts, runs = {}, []
    for file in sorted(work.glob(f"*/runs/*/{POINTS}")):
        settings = json.loads((file.parent / SETTINGS).read_text(encoding="utf-8"))
        points = json.loads(file.read_text(encoding="utf-8"))
        if not all("greedy" in point for point in points):
            continue
        case = (settings["task"], settings["seed"])
        if settings["arm"] == START:
            starts[case] = {**points[0], "cpu": 0.0, "tokens": 0}
        else:
            runs.append(Run(settings["arm"], *case, points, read_alarm(file.parent / "run")))
    complete = [run for run in runs if (run.task, run.seed) in starts]
    return [
        run._replace(points=[starts[run.task, run.seed], *(p for p in run.points if p["update"])]) for run in complete
    ]


def read_alarm(folder: Path) -> dict[str, int]:
    """Return what the alarm of a run told."""
    file = folder / "hacking.json"
    findings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return {finding["kind"]: finding["step"] for finding in findings}


def shown_point(point: dict[str, Any]) -> dict[str, Any]:
    """Return a point without its place and the scores by prompt."""
    return {name: value for name, value in point.items() if name != "policy" and not name.endswith("_rows")}
