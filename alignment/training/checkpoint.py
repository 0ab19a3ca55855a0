"""Step checkpoints of a whole run: ``output_dir/checkpoint-N`` with models, optimizers and every counter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from alignment.errors import CheckpointError
from alignment.telemetry import log
from alignment.training.durable import clean_leftovers, remove_folder, write_folder

MANIFEST = "complete.json"
STATE = "state.json"
NAME = re.compile(r"^checkpoint-(\d+)$")

ModelWriter = Callable[[Path], None]


class CheckpointStore:
    """The checkpoints of one ``output_dir``; the newest ``limit`` complete ones are kept (None: all)."""

    def __init__(self, output_dir: Path, *, limit: int | None = None) -> None:
        self.output_dir = output_dir
        self._limit = limit

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        if self.output_dir.is_dir():
            for name in clean_leftovers(self.output_dir):
                log.info(f"removed the unfinished {name} of an earlier run in {self.output_dir}")

    def save(
        self,
        step: int,
        *,
        models: Mapping[str, ModelWriter],
        tensors: Mapping[str, Mapping[str, np.ndarray]],
        state: Mapping[str, Any],
    ) -> Path:
        """Write ``checkpoint-step``: a folder a model, a safetensors file a named group, ``state`` as JSON."""
        target = self.output_dir / f"checkpoint-{step}"
        with write_folder(target) as aside:
            for name, write in models.items():
                write(aside / name)
            for name, group in tensors.items():
                _write_tensors(aside / f"{name}.safetensors", group)
            (aside / STATE).write_text(json.dumps({"step": step, **state}), encoding="utf-8")
            sizes = {str(p.relative_to(aside)): p.stat().st_size for p in sorted(aside.rglob("*")) if p.is_file()}
            (aside / MANIFEST).write_text(json.dumps({"step": step, "files": sizes}, indent=1), encoding="utf-8")
        self._prune()
        return target

    def all(self) -> list[Path]:
        """Return every ``checkpoint-N``, newest first, complete or not."""
        found = [p for p in self.output_dir.glob("checkpoint-*") if NAME.match(p.name) and p.is_dir()]
        return sorted(found, key=step_of, reverse=True)

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint and say which ones were passed over, and why."""
        for path in self.all():
            reason = incompleteness(path)
            if reason is None:
                return path
            log.warn(f"passed over {path}: {reason}")
        return None

    def _prune(self) -> None:
        if self._limit is not None and self._limit > 0:
            for path in [p for p in self.all() if incompleteness(p) is None][self._limit :]:
                remove_folder(path)


class Checkpoint:
    """A complete checkpoint, opened for reading."""

    def __init__(self, folder: Path) -> None:
        reason = incompleteness(folder)
        if reason is not None:
            raise CheckpointError(f"cannot resume from {folder}: {reason}")
        self.folder = folder
        self.state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))

    def model_folder(self, name: str) -> Path:
        """Return the folder of the model ``name``; a checkpoint of another trainer has none."""
        folder = self.folder / name
        if not folder.is_dir():
            models = ", ".join(sorted(path.name for path in self.folder.iterdir() if path.is_dir())) or "none"
            raise CheckpointError(
                f"cannot resume from {self.folder}: it holds no model {name!r} (its models: {models}), so another "
                "trainer wrote it"
            )
        return folder

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """Return the group ``name`` as it was saved."""
        path = self.folder / f"{name}.safetensors"
        try:
            return load_file(str(path))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error


def step_of(folder: Path) -> int:
    """Return N of ``checkpoint-N``."""
    return int(NAME.match(folder.name).group(1))


def incompleteness(folder: Path) -> str | None:
    """Return why ``folder`` cannot be resumed from, or None when every file is there in its full size."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"it has no {MANIFEST}, so its writing never finished (or it is no checkpoint of this suite)"
    except (ValueError, KeyError, TypeError):
        return f"its {MANIFEST} is damaged"
    return _misfit(folder, files) or _unreadable_state(folder)


def _misfit(folder: Path, files: Mapping[str, int]) -> str | None:
    for name, size in files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            return f"{name} has {'no file' if found is None else f'{found} bytes'} where {size} bytes were written"
    return None


def _unreadable_state(folder: Path) -> str | None:
    try:
        json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"its {STATE} is damaged ({error})"
    return None


def _write_tensors(path: Path, group: Mapping[str, np.ndarray]) -> None:
    try:
        save_file({name: np.ascontiguousarray(value) for name, value in group.items()}, str(path))
    except SafetensorError as error:  # what the library makes of a full disk
        raise OSError(str(error)) from error
