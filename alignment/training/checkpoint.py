"""Checkpoints of a whole run: ``output_dir/checkpoint-N`` with models, optimizers and all counters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignment.architecture.parts import Part
from alignment.errors import CheckpointError
from alignment.parallel.comms.group import Group
from alignment.parallel.comms.together import on_main
from alignment.parallel.topology import Topology
from alignment.telemetry import log
from alignment.training.checksums import ALGORITHM, hash_files
from alignment.training.durable import clean_leftovers, remove_folder, write_folder
from alignment.training.parts_io import read_state, write_state

MANIFEST = "complete.json"
STATE = "state.json"
NAME = re.compile(r"^checkpoint-(\d+)$")

ModelWriter = Callable[[Path], None]
"""Writes a model to a folder. All processes call it; an error in one is raised in all."""


class CheckpointStore:
    """The checkpoints of one ``output_dir``, of which the newest ``limit`` complete ones are kept (None: all).

    All processes save together and look for the newest together; only the main process removes.
    """

    def __init__(self, output_dir: Path, *, limit: int | None = None, topology: Topology | None = None) -> None:
        """The processes of ``topology`` save together (None: this one alone)."""
        self.output_dir = output_dir
        self.topology = topology or Topology(device="cpu")
        self._limit = limit
        self._damaged: set[Path] = set()
        """Checkpoints found damaged, which do not count towards the limit."""

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
        parts: Mapping[str, Mapping[str, Part]] | None = None,
    ) -> Path:
        """Write ``checkpoint-step``: a folder per model, safetensors files per group of tensors, ``state`` as JSON.

        All processes call it. ``tensors`` are what this process holds, by group, and ``parts`` the rectangles that they
        are (without it: whole tensors); ``state`` is the main process's. A failure in one process raises
        CheckpointError in all, and leaves earlier checkpoints unchanged.
        """
        target, world = self.output_dir / f"checkpoint-{step}", self.topology.world
        with write_folder(target, world) as aside:
            for name, write in models.items():
                write(aside / name)
            for name, group in tensors.items():
                write_state(aside, name, group, parts=(parts or {}).get(name, {}), world=world)
            sizes = on_main(world, _write_state, aside, {"step": step, **state})
            checksums = hash_files(aside, sizes, world)
            on_main(world, _write_manifest, aside, step, sizes, checksums)
        self._damaged.discard(target)
        on_main(world, self._prune)
        return target

    def all(self) -> list[Path]:
        """Return every ``checkpoint-N``, newest first, complete or not."""
        found = [p for p in self.output_dir.glob("checkpoint-*") if NAME.match(p.name) and p.is_dir()]
        return sorted(found, key=step_of, reverse=True)

    def newest(self) -> Path | None:
        """Return the newest undamaged checkpoint, and warn about those skipped; all processes call it."""
        world = self.topology.world
        for path in on_main(world, self.all):
            reason = find_damage(path, world)
            if reason is None:
                return path
            self._damaged.add(path)
            if world.is_first:
                log.warn(f"skipped {path}: {reason}")
        return None

    def _prune(self) -> None:
        if self._limit is not None and self._limit > 0:
            whole = [path for path in self.all() if path not in self._damaged and incompleteness(path) is None]
            for path in whole[self._limit :]:
                remove_folder(path)


class Checkpoint:
    """A complete checkpoint, opened for reading."""

    def __init__(self, folder: Path) -> None:
        reason = incompleteness(folder)
        if reason is not None:
            raise CheckpointError(f"cannot resume from {folder}: {reason}")
        self.folder = folder
        self.state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))

    @property
    def models(self) -> list[str]:
        """The names of its models, sorted."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())

    def model_folder(self, name: str) -> Path:
        """Return the folder of the model ``name``; CheckpointError if there is none."""
        folder = self.folder / name
        if not folder.is_dir():
            models = ", ".join(self.models) or "none"
            raise CheckpointError(
                f"cannot resume from {self.folder}: it holds no model {name!r} (its models: {models}), so another "
                "trainer or algorithm wrote it"
            )
        return folder

    def tensors(
        self, name: str, *, parts: Mapping[str, Part] | None = None, known: Collection[str] = ()
    ) -> dict[str, np.ndarray]:
        """Return the tensors of the group ``name``, whatever layout saved them; see ``read_state``."""
        return read_state(self.folder, name, parts=parts, known=known)


def step_of(folder: Path) -> int:
    """Return N of ``checkpoint-N``."""
    return int(NAME.match(folder.name).group(1))


def incompleteness(folder: Path) -> str | None:
    """Return why ``folder`` cannot be resumed from, None if every file exists with its full size.

    The content of files is not checked; see ``find_damage``.
    """
    if not folder.is_dir():
        return "there is no such folder"
    try:
        files = _read_manifest(folder)
    except FileNotFoundError:
        return f"it has no {MANIFEST}, so writing it never finished (or it is not a checkpoint of this suite)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"its {MANIFEST} is damaged"
    return _misfit(folder, files) or _unreadable_state(folder)


def find_damage(folder: Path, world: Group) -> str | None:
    """Return what is missing or damaged in ``folder``, None if every file exists with its original checksum.

    All processes of ``world`` call it, and each reads its share of the files.
    """
    reason = on_main(world, incompleteness, folder)
    if reason is not None:
        return reason
    files = on_main(world, _read_manifest, folder)
    sizes = {name: entry.size for name, entry in files.items() if entry.checksum is not None}
    try:
        found = hash_files(folder, sizes, world)
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    for name in sizes:
        if found[name] != files[name].checksum:
            return f"{name} is damaged: its checksum has changed since it was written"
    return None


class _File(NamedTuple):
    """The manifest's entry for a file."""

    size: int
    checksum: str | None
    """None in checkpoints of earlier versions."""


def _read_manifest(folder: Path) -> dict[str, _File]:
    files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    return {
        name: _File(entry, None) if isinstance(entry, int) else _File(entry["size"], entry[ALGORITHM])
        for name, entry in files.items()
    }


def _misfit(folder: Path, files: Mapping[str, _File]) -> str | None:
    for name, (size, _) in files.items():
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


def _write_state(folder: Path, state: Mapping[str, Any]) -> dict[str, int]:
    """Write ``state`` and return the sizes of all files."""
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def _write_manifest(folder: Path, step: int, sizes: Mapping[str, int], checksums: Mapping[str, str]) -> None:
    """Write the manifest, the last file, which makes the checkpoint complete."""
    files = {name: {"size": size, ALGORITHM: checksums[name]} for name, size in sizes.items()}
    (folder / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1), encoding="utf-8")
