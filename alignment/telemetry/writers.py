"""Where metrics go: JSON lines always, VisualDL, TensorBoard and wandb when asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.errors import UserError
from alignment.telemetry.boards import BOARDS, MetricBoard
from alignment.telemetry.jsonl import JsonLines, read_json_lines


class Writers:
    """Hands every record to the JSON lines first, then to the boards."""

    def __init__(self, *, metrics: JsonLines, samples: JsonLines, boards: Sequence[MetricBoard]) -> None:
        self._metrics = metrics
        self._samples = samples
        self._boards = boards

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one step; a board gets finite values only. Raises UserError when the disk refuses."""
        numbers = {name: float(value) for name, value in metrics.items()}
        self._metrics.append({"step": int(step), **numbers})
        for board in self._boards:
            board.write(int(step), _finite_only(numbers))

    def write_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write samples, one line each: ``prompt``, ``response``, ``score`` and whatever else a row has."""
        for row in rows:
            assert "step" not in row, "the step is an argument, not a field of a sample"
            self._samples.append({"step": int(step), **row})

    def close(self) -> None:
        """Flush and close everything; a second call does nothing."""
        self._metrics.close()
        self._samples.close()
        for board in self._boards:
            board.close()
        self._boards = ()


class SilentWriters:
    """What processes other than the main one write: nothing."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """See ``Writers.write``."""

    def write_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """See ``Writers.write_samples``."""

    def close(self) -> None:
        """See ``Writers.close``."""


def open_writers(
    report_to: Sequence[str],
    *,
    output_dir: Path,
    run_name: str | None = None,
    resume_step: int = 0,
    evaluates_again: bool = False,
) -> Writers:
    """Open ``metrics.jsonl`` and ``samples.jsonl`` in ``output_dir`` and the boards that ``report_to`` names.

    ``report_to``: ``visualdl``, ``tensorboard``, ``wandb``, ``all`` (every installed one) or ``none``.
    ``resume_step``: records of later steps are dropped, in the boards too; 0 starts all of them anew.
    ``evaluates_again``: so is an evaluation of that step, which the checkpoint does not know of.
    Raises UserError for an unknown or uninstalled board, or when the folder cannot be written.
    """
    names = _board_names(report_to)
    output_dir = Path(output_dir)
    metrics, samples = (
        JsonLines(
            output_dir / name,
            resume_step=resume_step,
            comes_again=lambda record, is_evaluation=is_evaluation: evaluates_again and is_evaluation(record),
        )
        for name, is_evaluation in (("metrics.jsonl", _is_evaluation), ("samples.jsonl", _is_evaluation_sample))
    )
    boards = [BOARDS[name].open(output_dir / "runs" / name, run_name) for name in names]
    replayed = [board for name, board in zip(names, boards, strict=True) if BOARDS[name].replayed]
    for record in read_json_lines(metrics.path):
        for board in replayed:
            board.write(record["step"], _finite_only(record))
    return Writers(metrics=metrics, samples=samples, boards=boards)


def _is_evaluation(record: Mapping[str, Any]) -> bool:
    return any(name.startswith("eval/") for name in record)


def _is_evaluation_sample(row: Mapping[str, Any]) -> bool:
    """Return whether ``row`` comes from an evaluation; rows of training say so as their source."""
    return "source" not in row


def _board_names(report_to: Sequence[str]) -> list[str]:
    """Return the boards to open; refuses unknown, contradictory and uninstalled ones before any file is touched."""
    requested = [report_to] if isinstance(report_to, str) else list(report_to)
    allowed = [*BOARDS, "all", "none"]
    unknown = [name for name in requested if name not in allowed]
    if unknown:
        raise UserError(f"report_to: unknown {', '.join(map(repr, unknown))} (allowed: {', '.join(allowed)})")
    if "none" in requested and len(set(requested)) > 1:
        raise UserError(f"report_to: 'none' contradicts the rest of {requested}")
    if "all" in requested:
        return [name for name, board in BOARDS.items() if board.is_installed]
    names = [name for name in BOARDS if name in requested]
    for name in names:
        if not BOARDS[name].is_installed:
            package = BOARDS[name].package
            raise UserError(f"report_to: {name!r} needs the package {package} (run: pip install {package})")
    return names


def _finite_only(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float) and math.isfinite(value)}
