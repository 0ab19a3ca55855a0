"""Decide whether a library on disk may be executed: it must be unchanged since the build and not writable by others."""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
from collections.abc import Collection
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def trusted_owners() -> frozenset[int]:
    """Return the user ids whose files this process executes: its own and root's."""
    return frozenset((os.geteuid(), 0))


def seal(library: Path) -> None:
    """Write a record with size and checksum beside a new ``library``, and make both writable only by their owner.

    ``place`` then moves both to their final path.
    """
    record = record_path(library)
    record.write_text(_describe(library), encoding="ascii")
    record.chmod(0o644)
    library.chmod(0o755)
    for path in (record, library):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def place(library: Path, target: Path) -> None:
    """Rename a sealed ``library`` and its record to ``target``; after a kill in between the two do not match."""
    record_path(library).replace(record_path(target))
    library.replace(target)


def record_path(library: Path) -> Path:
    """Return the path of the record of ``library``."""
    return library.with_name(f"{library.name}.sha256")


def find_problem(library: Path, owners: Collection[int]) -> str | None:
    """Return why ``library`` must not be loaded, as a phrase that follows its name; None if it may."""
    record = record_path(library)
    try:
        for path, what in ((library, ""), (record, "its checksum ")):
            problem = _find_danger(path.lstat(), owners)
            if problem:
                return what + problem
        if record.read_text(encoding="ascii", errors="replace") == _describe(library):
            return None
        return f"is damaged: its {library.stat().st_size} bytes are not what was built"
    except FileNotFoundError as error:
        return "is missing" if error.filename == str(library) else "has no checksum beside it"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def find_folder_problem(folder: Path) -> str | None:
    """Return why nothing in ``folder`` may be executed; None if files may be, or there is no such folder."""
    try:
        return _find_writer(folder.stat(), trusted_owners())
    except OSError:
        return None


def _find_danger(status: os.stat_result, owners: Collection[int]) -> str | None:
    return _find_writer(status, owners) if stat.S_ISREG(status.st_mode) else "is not a regular file"


def _find_writer(status: os.stat_result, owners: Collection[int]) -> str | None:
    """Return who else can write to it, None if nobody can."""
    if status.st_uid not in owners:
        return f"belongs to user {_user_name(status.st_uid)}"
    if status.st_mode & _OTHERS_WRITE:
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    return None


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _describe(library: Path) -> str:
    content = library.read_bytes()
    return f"{hashlib.sha256(content).hexdigest()} {len(content)}\n"
