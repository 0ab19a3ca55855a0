"""Write folders atomically: under a temporary name, by one process or by all, then fsync and rename."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from alignment.errors import CheckpointError
from alignment.parallel.comms.group import ALONE, Group
from alignment.parallel.comms.together import everywhere, on_main
from alignment.telemetry.files import PART_PATTERN

ASIDE_PREFIX = ".writing-"
RETIRED_PREFIX = ".retired-"


@contextlib.contextmanager
def write_folder(target: Path, world: Group = ALONE) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; on success it replaces ``target``, on failure it is deleted.

    Readers never see a half-written ``target``, even if a process is killed. All processes that write together enter
    this, and an error inside is raised in all of them (see ``parallel.comms.together``).
    """
    aside = target.parent / f"{ASIDE_PREFIX}{target.name}"
    try:
        on_main(world, _make_empty, aside)
        yield aside
        # On every process: each machine has its own cache for a shared folder.
        everywhere(world, sync_tree, aside)
        on_main(world, _replace, aside, target)
    except OSError as error:
        raise CheckpointError(world.share_object(_describe_failure(target, error), 0)) from error
    finally:
        if world.is_first:
            shutil.rmtree(aside, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents durably, so that they survive a power failure; it may exist already."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def sync_tree(folder: Path) -> None:
    """Force ``folder`` and everything in it to disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def clean_leftovers(folder: Path) -> list[str]:
    """Remove temporary files and folders that a killed process left in ``folder``; return their names, sorted.

    A folder moved away by a replacement that never finished is moved back.
    """
    removed = []
    for path in [*folder.glob(f"{RETIRED_PREFIX}*")]:
        original = folder / path.name[len(RETIRED_PREFIX) :]
        if not original.exists():
            path.rename(original)
    for path in [*folder.glob(f"{ASIDE_PREFIX}*"), *folder.glob(f"{RETIRED_PREFIX}*")]:
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path.name)
    for path in [*folder.glob(PART_PATTERN)]:
        path.unlink()
        removed.append(path.name)
    return sorted(removed)


def remove_folder(folder: Path) -> None:
    """Delete ``folder`` so that a kill never leaves half of it under its name."""
    retired = folder.parent / f"{ASIDE_PREFIX}removed-{folder.name}"
    shutil.rmtree(retired, ignore_errors=True)
    folder.rename(retired)
    # After a power failure the half-deleted folder must not reappear under its name.
    _sync(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder.parent)
    folder.mkdir()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(aside: Path, target: Path) -> None:
    retired = target.parent / f"{RETIRED_PREFIX}{target.name}"
    shutil.rmtree(retired, ignore_errors=True)
    if target.exists():
        target.rename(retired)
    aside.rename(target)
    _sync(target.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _describe_failure(target: Path, error: OSError) -> str:
    existing = next(parent for parent in target.parents if parent.exists())
    free = shutil.disk_usage(existing).free / 2**20
    return (
        f"cannot write {target}: {error.strerror or error} ({free:.1f} MiB free there). "
        "Nothing half-written was left; earlier checkpoints are untouched"
    )
