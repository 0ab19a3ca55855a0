"""Folders that exist whole or not at all: written aside, by one process or by all, fsynced, renamed."""

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

    A reader never sees a folder named ``target`` that is half-written, whenever a process is killed. Of several
    processes that write together all enter it, and what fails inside is raised by all of them (see
    ``parallel.comms.together``).
    """
    aside = target.parent / f"{ASIDE_PREFIX}{target.name}"
    try:
        on_main(world, _make_empty, aside)
        yield aside
        # Each its own: a folder shared by several machines is written through each one's cache.
        everywhere(world, sync_tree, aside)
        on_main(world, _replace, aside, target)
    except OSError as error:
        raise CheckpointError(world.share_object(_describe_failure(target, error), 0)) from error
    finally:
        if world.is_first:
            shutil.rmtree(aside, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents, so that they survive a loss of power; it may be there already."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def sync_tree(folder: Path) -> None:
    """Force every file and folder below ``folder`` to the disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def clean_leftovers(folder: Path) -> list[str]:
    """Remove what a killed process left aside in ``folder``; return the names in order.

    A folder that was moved out of the way by a replacement that never finished goes back to its place.
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
    """Delete ``folder`` so that a kill in between never leaves half of it under its name."""
    retired = folder.parent / f"{ASIDE_PREFIX}removed-{folder.name}"
    shutil.rmtree(retired, ignore_errors=True)
    folder.rename(retired)
    # A loss of power must not bring back the name of what was half deleted.
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
    place = target.parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**20
    return (
        f"cannot write {target}: {error.strerror or error} ({free:.1f} MiB free there). "
        "Nothing half-written was left; earlier checkpoints are untouched"
    )
