"""Short runs of an offline trainer on tiny models, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignment.telemetry.jsonl import read_json_lines
from alignment.trainers.registered import TRAINERS
from tests.contract.keys.assembled import BASE

_CHANGED = ("time/", "memory/")
"""Metrics that differ between equal runs."""


def train_tiny(trainer: str, folder: Path, name: str, **keys: Any) -> list[dict[str, Any]]:
    """Run ``trainer`` with ``folder/NAME.json`` and the output ``folder/NAME``; return the metrics of equal runs."""
    shown = {"logging_steps": 1, "disable_tqdm": True, "device": "cpu", "learning_rate": 1e-2}
    arguments = {**BASE[trainer], "output_dir": str(folder / name), **shown, **keys}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(arguments))
    TRAINERS[trainer].train([str(path)], host="test")
    return read_shared_metrics(folder / name)


def read_shared_metrics(output: Path) -> list[dict[str, Any]]:
    """Return the records of a run without what differs between equal runs."""
    return [
        {key: value for key, value in record.items() if not key.startswith(_CHANGED)}
        for record in read_json_lines(output / "metrics.jsonl")
    ]
