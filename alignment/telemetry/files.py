"""Write small files atomically: a crash leaves either the old or the new content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignment.errors import UserError

PART_PATTERN = ".*.part"
"""Pattern of the temporary names of files being written."""


def replace_file(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` by way of a temporary file, fsync and rename; UserError if it cannot be written."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with readable_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                file.write(content.encode("utf-8") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        _fsync_folder(path.parent)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left half-written in ``folder`` and below it; nobody else may be writing there."""
    for path in [*folder.rglob(PART_PATTERN)]:
        path.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def readable_disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError (disk full, no permission, not a folder) into one message that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
