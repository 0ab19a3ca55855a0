"""Reads what a run left in its output folder; whatever is missing is simply absent."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.telemetry.charts import Point
from alignment.telemetry.jsonl import read_json_lines
from alignment.telemetry.log import warn

TRAINING = "training"
"""The ``source`` of samples from a rollout that was trained on; those of an evaluation have none."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The content of an output folder, as the report needs it."""

    series: dict[str, list[Point]]
    """Metric name to finite (step, value) points, ordered by step."""
    non_finite: dict[str, int]
    """Metric name to the number of NaN or infinite values."""
    samples: dict[int, list[dict[str, Any]]]
    """Step to samples, ordered by step: of evaluations, and only where there was none of training."""
    ledger: Any
    """``ledger.json`` (None when missing)."""
    arguments: Any
    """``arguments.json`` (None when missing)."""
    plots: dict[str, str]
    """Name of a PNG under ``plots/`` to its content in base64."""

    @property
    def steps(self) -> tuple[int, int] | None:
        """First and last step of any metric."""
        steps = [step for points in self.series.values() for step, _ in (points[0], points[-1])]
        return (int(min(steps)), int(max(steps))) if steps else None


def read_run_files(output_dir: Path) -> RunFiles:
    """Read metrics, samples, ledger, arguments and plots of ``output_dir``."""
    series, non_finite = _read_series(output_dir / "metrics.jsonl")
    records = list(read_json_lines(output_dir / "samples.jsonl"))
    samples: dict[int, list[dict[str, Any]]] = {}
    for record in [r for r in records if r.get("source") != TRAINING] or records:
        samples.setdefault(record["step"], []).append(record)
    return RunFiles(
        series=series,
        non_finite=non_finite,
        samples=dict(sorted(samples.items())),
        ledger=_read_json(output_dir / "ledger.json"),
        arguments=_read_json(output_dir / "arguments.json"),
        plots={
            path.stem: base64.b64encode(path.read_bytes()).decode("ascii")
            for path in sorted((output_dir / "plots").glob("*.png"))
        },
    )


def _read_series(path: Path) -> tuple[dict[str, list[Point]], dict[str, int]]:
    """Collect points by metric; of several records of one step the last wins."""
    series: dict[str, dict[float, float]] = {}
    non_finite: dict[str, int] = {}
    for record in read_json_lines(path):
        for name in record.get("non_finite", {}):
            non_finite[name] = non_finite.get(name, 0) + 1
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                series.setdefault(name, {})[record["step"]] = float(value)
    return {name: sorted(points.items()) for name, points in series.items()}, non_finite


def _read_json(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        warn(f"{path} is left out of the report: {error}")
        return None
