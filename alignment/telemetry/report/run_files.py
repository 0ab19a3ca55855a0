"""Read the files of a run's output folder, any of which may be missing."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.errors import why_unreadable
from alignment.telemetry.jsonl import read_json_lines
from alignment.telemetry.log import warn

TRAINING = "training"
"""The ``source`` of samples from training rollouts; those of evaluations have none."""

HACKING_FILE = "hacking.json"
"""What the alarm found, with answers to read."""

Point = tuple[int, float | None]
"""A step and a value; None stands for NaN or infinity."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The content of an output folder for the report."""

    series: dict[str, list[Point]]
    """Points by metric name, sorted by step, one per step."""
    samples: dict[int, list[dict[str, Any]]]
    """Samples by step, sorted: those of evaluations, or of training if there are none."""
    ledger: Any
    """``ledger.json`` (None if missing)."""
    arguments: Any
    """``arguments.json`` (None if missing)."""
    readiness: Any
    """``readiness.json`` of a reward model (None if missing)."""
    findings: Any
    """``hacking.json``: what the alarm found (None if missing)."""
    plots: dict[str, str]
    """The content of each PNG in ``plots/`` in base64, by name."""

    @property
    def steps(self) -> tuple[int, int] | None:
        """First and last step of any metric."""
        return step_range(list(self.series.values()))


def step_range(lines: Sequence[Sequence[Point]]) -> tuple[int, int] | None:
    """Return the first and last step of all ``lines``, None if there are no points."""
    steps = [step for points in lines if points for step, _ in (points[0], points[-1])]
    return (min(steps), max(steps)) if steps else None


def read_run_files(output_dir: Path) -> RunFiles:
    """Read metrics, samples, ledger, arguments and plots of ``output_dir``."""
    records = list(read_json_lines(output_dir / "samples.jsonl"))
    samples: dict[int, list[dict[str, Any]]] = {}
    for record in [r for r in records if r.get("source") != TRAINING] or records:
        samples.setdefault(record["step"], []).append(record)
    return RunFiles(
        series=_read_series(output_dir / "metrics.jsonl"),
        samples=dict(sorted(samples.items())),
        ledger=_read_json(output_dir / "ledger.json"),
        arguments=_read_json(output_dir / "arguments.json"),
        readiness=_read_json(output_dir / "readiness.json"),
        findings=_read_json(output_dir / HACKING_FILE),
        plots=read_plots(output_dir / "plots"),
    )


def read_plots(folder: Path) -> dict[str, str]:
    """Return the content of each PNG in ``folder`` in base64, by name."""
    return {path.stem: base64.b64encode(path.read_bytes()).decode("ascii") for path in sorted(folder.glob("*.png"))}


def _read_series(path: Path) -> dict[str, list[Point]]:
    """Return points by metric; of several records of one step the last counts."""
    series: dict[str, dict[int, float | None]] = {}
    for record in read_json_lines(path):
        damaged = record.get("non_finite")
        names = dict.fromkeys(damaged) if isinstance(damaged, dict) else {}
        numbers = {name: value for name, value in record.items() if _is_number(value) and name != "step"}
        for name, value in {**numbers, **names}.items():
            series.setdefault(name, {})[record["step"]] = _finite(value)
    return {name: sorted(points.items()) for name, points in series.items()}


def _finite(value: float | None) -> float | None:
    try:
        return float(value) if value is not None and math.isfinite(value) else None
    except OverflowError:  # a whole number beyond every float
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        warn(f"{path} is left out of the report: {why_unreadable(error)}")
        return None
