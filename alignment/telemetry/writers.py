"""Write metrics and samples: always to JSON lines, and to VisualDL, TensorBoard and wandb on request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.errors import UserError
from alignment.telemetry.boards import BOARDS, MetricBoard
from alignment.telemetry.jsonl import JsonLines, read_json_lines


class Writers:
    """Writes every record to the JSON lines first, then to the boards."""

    def __init__(self, *, metrics: JsonLines, samples: JsonLines, boards: Sequence[MetricBoard]) -> None:
        self._metrics = metrics
        self._samples = samples
        self._boards = boards

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one step; boards get only finite values. UserError if the file cannot be written."""
        numbers = {name: float(value) for name, value in metrics.items()}
        self._metrics.append({"step": int(step), **numbers})
        for board in self._boards:
            board.write(int(step), _finite_only(numbers))

    def write_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write samples, one line each: ``prompt``, ``response``, ``score`` and any other fields."""
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
    """The writers of processes other than the main one, which write nothing."""

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
    """Open ``metrics.jsonl`` and ``samples.jsonl`` in ``output_dir``, and the boards in ``report_to``.

    ``report_to`` holds ``visualdl``, ``tensorboard``, ``wandb``, ``all`` (every installed one) or ``none``.
    Records after ``resume_step`` are dropped, in the boards too (0: all); with ``evaluates_again`` also evaluations of
    that step, because the resumed run repeats them. UserError for an unknown or uninstalled board, or if the folder
    cannot be written.
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
    """Return whether ``row`` comes from an evaluation; rows of training have a ``source``."""
    return "source" not in row


def _board_names(report_to: Sequence[str]) -> list[str]:
    """Return the boards to open; UserError for unknown, contradictory or uninstalled ones."""
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
