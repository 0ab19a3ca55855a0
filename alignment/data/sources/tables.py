"""Read rows of local files (JSON lines, JSON, parquet, arrow; gz and xz), keeping the file and line of each."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.data.sources.folders import Found, Splits, find_data
from alignment.errors import DataError, why_unreadable

Place = tuple[str, int]
"""A file, and the line (JSON lines) or record (other formats) in it, counted from 1."""

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}


class MissingPathError(DataError):
    """A path given by the user does not exist."""


@dataclass(frozen=True)
class Table:
    """Rows and where they come from."""

    rows: Sequence[Mapping[str, Any]]
    places: Sequence[Place] | None
    """One per row; None: rows are described by ``source`` and number."""
    source: str
    split: str | None = None
    """The split that was read, if there were several."""

    def notes(self) -> list[str]:
        """Return a line with the split that was read, if there were several."""
        return [f"split {self.split!r} of {self.source}"] if self.split else []

    def describe(self, index: int) -> str:
        """Return ``file line 3 (columns: a, b)``."""
        where = f"{self.source} row {index}"
        if self.places is not None:
            file, number = self.places[index]
            where = f"{file} line {number}"
        return f"{where} (columns: {', '.join(map(str, self.rows[index])) or 'none'})"


def read_table(path: str | Path, *, splits: Splits | None = None) -> Table:
    """Read a file, or the data files of a folder: the first of ``splits`` that exists, or all."""
    files, split = find_files(Path(path).expanduser(), splits)
    rows: list[Mapping[str, Any]] = []
    places: list[Place] = []
    for file in files:
        for number, row in _READERS[_format_of(file) or ""](file):
            if not isinstance(row, Mapping):
                raise DataError(f"{file} line {number}: a row must be an object, got {type(row).__name__}")
            rows.append(row)
            places.append((str(file), number))
    if not rows:
        raise DataError(f"{path} holds no rows")
    return Table(rows, places, str(path), split)


def find_files(path: Path, splits: Splits | None) -> Found:
    """Return the data files at ``path``; none, or a mix of formats, is a ``DataError``."""
    if not path.exists():
        raise MissingPathError(f"no file or folder {str(path)!r} (current folder: {Path.cwd()})")
    if path.is_file():
        if _format_of(path) is None:
            raise DataError(f"{path}: unknown format (allowed: {', '.join(_READERS)}, the first two also .gz or .xz)")
        return Found([path], None)
    found = find_data(path, splits, lambda file: _format_of(file) is not None)
    formats = sorted({_format_of(file) or "" for file in found.files})
    if len(formats) != 1:
        what = f"files of several formats ({', '.join(formats)}); name one file" if formats else "no data file"
        raise DataError(f"{path} holds {what} (split {found.split!r}; formats read: {', '.join(_READERS)})")
    return found


def column(row: Mapping[str, Any], name: str, place: str) -> Any:
    """Return ``row[name]``; a missing column is a ``DataError`` that names ``place``."""
    if name not in row:
        raise DataError(f"{place}: missing column {name!r}")
    return row[name]


def _format_of(file: Path) -> str | None:
    suffixes = [suffix for suffix in file.suffixes if suffix not in _OPENERS]
    name = suffixes[-1] if suffixes else ""
    compressed = file.suffix in _OPENERS
    return name if name in _READERS and not (compressed and name not in (".jsonl", ".json")) else None


def _read_json(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of JSON lines, numbered by line, or of one JSON array, numbered by record."""
    text = _read_text(file)
    if text.lstrip().startswith("["):
        yield from enumerate(_parse(text, f"{file}"), start=1)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _parse(line, f"{file} line {number}")


def _read_text(file: Path) -> str:
    opener = _OPENERS.get(file.suffix, open)
    try:
        with opener(file, "rt", encoding="utf-8-sig") as stream:
            return stream.read()
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise DataError(f"{file} cannot be read: {why_unreadable(error)}") from error


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{place}: not valid JSON ({error.msg}, {where})") from error


def _read_parquet(file: Path) -> Iterator[tuple[int, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise _no_pyarrow(file) from error
    try:
        rows = parquet.read_table(file).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
    yield from enumerate(rows, start=1)


def _read_arrow(file: Path) -> Iterator[tuple[int, Any]]:
    """Read the arrow stream format that ``datasets.save_to_disk`` writes, or the arrow file format."""
    try:
        from pyarrow import ArrowException, ArrowInvalid, ipc
    except ImportError as error:
        raise _no_pyarrow(file) from error
    try:
        with file.open("rb") as stream:
            try:
                rows = ipc.open_stream(stream).read_all().to_pylist()
            except ArrowInvalid:
                stream.seek(0)
                rows = ipc.open_file(stream).read_all().to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
    yield from enumerate(rows, start=1)


def _no_pyarrow(file: Path) -> DataError:
    return DataError(f"reading {file} needs the package 'pyarrow' (pip install pyarrow), or use JSON lines")


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
