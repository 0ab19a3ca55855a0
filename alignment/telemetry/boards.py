"""Adapters for VisualDL, TensorBoard and wandb; each package is imported only when its board is opened.

Boards write binary files that cannot be truncated to a step. So opening a board removes its old files, and it is
refilled from ``metrics.jsonl``: after a resume it shows exactly the kept steps.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class MetricBoard:
    """An open destination for metrics."""

    write: Callable[[int, Mapping[str, float]], None]
    """Takes a step and its finite metrics."""
    close: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class BoardKind:
    """The description of a board that is not open."""

    package: str
    """The package to install."""
    open: Callable[[Path, str | None], MetricBoard]
    """Takes the folder for its files and the name of the run."""
    replayed: bool
    """Whether it opens empty and needs the earlier records again."""

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


def _open_visualdl(folder: Path, run_name: str | None) -> MetricBoard:
    from visualdl import LogWriter

    _remove_files(folder, "vdlrecords.*")
    return _scalar_board(LogWriter(logdir=str(folder), display_name=run_name or ""))


def _open_tensorboard(folder: Path, run_name: str | None) -> MetricBoard:
    from tensorboardX import SummaryWriter

    _remove_files(folder, "events.out.tfevents.*")
    return _scalar_board(SummaryWriter(logdir=str(folder)))


def _open_wandb(folder: Path, run_name: str | None) -> MetricBoard:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(project="alignment", name=run_name, dir=str(folder))
    return MetricBoard(write=lambda step, metrics: run.log(dict(metrics), step=step), close=run.finish)


def _scalar_board(writer: Any) -> MetricBoard:
    def write(step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return MetricBoard(write=write, close=writer.close)


def _remove_files(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


BOARDS = {
    "visualdl": BoardKind(package="visualdl", open=_open_visualdl, replayed=True),
    # tensorboardX writes TensorBoard's files without TensorFlow or torch.
    "tensorboard": BoardKind(package="tensorboardX", open=_open_tensorboard, replayed=True),
    # wandb keeps the history on a server, which rejects earlier steps.
    "wandb": BoardKind(package="wandb", open=_open_wandb, replayed=False),
}
