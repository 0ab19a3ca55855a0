"""A file of JSON lines that is made in parts, by several processes and over several starts.

The parts lie in ``NAME.parts`` beside it: a line a row, its number before it. A line is complete or is not read; the
whole file appears at once, in order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from alignment.errors import ArgumentError, DataError
from alignment.runs.output_lock import LOCK_FILE
from alignment.telemetry.files import readable_disk_errors, replace_file

_MADE_FROM = "made_from.json"


class _Line(NamedTuple):
    path: Path
    offset: int
    size: int


class Parts:
    """The parts of ``target``."""

    def __init__(self, target: Path, key: str = "output_file") -> None:
        """``key`` is what messages call the argument that names ``target``, or its folder."""
        self.target = target
        self._key = key
        self.folder = target.with_name(f"{target.name}.parts")

    def open(self, made_from: Mapping[str, Any], *, overwrite: bool) -> None:
        """Create the folder, or continue with what is there if it was made from the same things.

        ArgumentError if ``target`` is there, or parts made from other things, unless they are to be overwritten.
        """
        record = self.folder / _MADE_FROM
        before = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        now = json.loads(json.dumps(made_from))
        if self.target.exists() and not overwrite:
            raise ArgumentError(f"{self._key}: {self.target} exists: name another, or give --overwrite true")
        if before != now:
            changed = ", ".join(sorted(key for key in {*before, *now} if before.get(key) != now.get(key)))
            if self.done() and not overwrite:
                raise ArgumentError(
                    f"{self._key}: {self.folder} holds a part of it that was made with another {changed}: give the "
                    "same again to continue it, or --overwrite true to begin anew"
                )
            self._clear()
        replace_file(record, json.dumps(now))

    def done(self) -> dict[int, _Line]:
        """Return where the line of each finished number is."""
        found: dict[int, _Line] = {}
        for path in sorted(self.folder.glob("part-*.jsonl")):
            offset = 0
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):  # the last line of a killed process has no end
                        number, _, row = line.partition(b"\t")
                        found.setdefault(int(number), _Line(path, offset + len(line) - len(row), len(row)))
                    offset += len(line)
        return found

    def new_files(self, count: int) -> list[Path]:
        """Return paths of ``count`` parts that do not exist yet, and never did."""
        used = [int(path.name.split("-")[1].split(".")[0]) for path in self.folder.glob("part-*")]
        first = max(used, default=-1) + 1
        return [self.folder / f"part-{first + number:05}.jsonl" for number in range(count)]

    def rows(self, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yield the finished rows of ``numbers``."""
        for line in self._lines(numbers):
            yield json.loads(line)

    def join(self, numbers: Iterable[int]) -> None:
        """Write the lines of ``numbers`` to ``target``, which appears at once, and delete the parts."""
        aside = self.folder / "whole"
        with readable_disk_errors(self.target):
            with aside.open("wb") as whole:
                whole.writelines(self._lines(numbers))
                whole.flush()
                os.fsync(whole.fileno())
            aside.replace(self.target)
        self._clear()

    def _lines(self, numbers: Iterable[int]) -> Iterator[bytes]:
        lines = self.done()
        for number in numbers:
            path, offset, size = lines[number]
            with path.open("rb") as file:
                file.seek(offset)
                yield file.read(size)

    def _clear(self) -> None:
        """Delete the parts; the lock of whoever works here stays."""
        for path in self.folder.iterdir():
            if path.name != LOCK_FILE:
                path.unlink()


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

    def append(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Write ``rows``, each with its number."""
        text = "".join(f"{number}\t{json.dumps(row, ensure_ascii=False, default=_plain)}\n" for number, row in rows)
        with readable_disk_errors(self._path):
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())


def _plain(value: Any) -> str:
    """Return a date or time of a table as text."""
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise DataError(f"a {type(value).__name__} cannot be written as JSON: {value!r:.80}")
