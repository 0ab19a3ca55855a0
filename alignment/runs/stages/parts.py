"""A file of JSON lines that is made in parts, by several processes and over several starts.

The parts lie in ``NAME.parts`` beside it. A line is complete or is not read; the whole file appears at once, in order.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from alignment.errors import ArgumentError
from alignment.telemetry.files import readable_disk_errors, replace_file

_MADE_FROM = "made_from.json"


class _Line(NamedTuple):
    path: Path
    offset: int
    size: int


class Parts:
    """The parts of ``target``."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_name(f"{target.name}.parts")

    def open(self, made_from: Mapping[str, Any], *, overwrite: bool) -> None:
        """Create the folder, or continue with what is there if it was made from the same things.

        ArgumentError if ``target`` is there, or parts made from other things, unless they are to be overwritten.
        """
        record = self.folder / _MADE_FROM
        before = json.loads(record.read_text(encoding="utf-8")) if record.exists() else None
        now = json.loads(json.dumps(made_from))
        if self.target.exists() and not overwrite:
            raise ArgumentError(f"output_file: {self.target} exists: name another, or give --overwrite true")
        if before is not None and before != now:
            changed = ", ".join(sorted(key for key in {*before, *now} if before.get(key) != now.get(key)))
            if not overwrite:
                raise ArgumentError(
                    f"output_file: {self.folder} holds a part of it that was made with another {changed}: give the "
                    "same again to continue it, or --overwrite true to begin anew"
                )
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(record, json.dumps(now))

    def done(self) -> dict[int, _Line]:
        """Return where the line of each finished number is."""
        found: dict[int, _Line] = {}
        for path in sorted(self.folder.glob("part-*.jsonl")):
            offset = 0
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):  # the last line of a killed process has no end
                        found.setdefault(json.loads(line)["index"], _Line(path, offset, len(line)))
                    offset += len(line)
        return found

    def new_file(self) -> Path:
        """Return the path of a part that does not exist yet."""
        return self.folder / f"part-{len(list(self.folder.glob('part-*.jsonl'))):05}.jsonl"

    def join(self, numbers: Iterable[int]) -> None:
        """Write the lines of ``numbers`` to ``target``, which appears at once, and delete the parts."""
        lines, aside = self.done(), self.folder / "whole"
        with readable_disk_errors(self.target):
            with aside.open("wb") as whole:
                for number in numbers:
                    path, offset, size = lines[number]
                    with path.open("rb") as file:
                        file.seek(offset)
                        whole.write(file.read(size))
                whole.flush()
                os.fsync(whole.fileno())
            aside.replace(self.target)
        shutil.rmtree(self.folder)


class PartWriter:
    """Appends lines to a new part; whole groups of lines reach the disk together."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with readable_disk_errors(path):
            self._file = path.open("xb")

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write ``rows``, each with its ``index``."""
        with readable_disk_errors(self._path):
            self._file.write(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
            self._file.flush()
            os.fsync(self._file.fileno())
