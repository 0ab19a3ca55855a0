"""JSON lines: the record of a run, from which all other views are built."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignment.errors import UserError, why_unreadable
from alignment.telemetry.files import readable_disk_errors, replace_file
from alignment.telemetry.log import warn


class JsonLines:
    """Appends one JSON object per line and flushes it.

    JSON has no NaN or infinity: such values become null, and ``non_finite`` in the same record says what they were.
    """

    def __init__(
        self, path: Path, *, resume_step: int, comes_again: Callable[[Mapping[str, Any]], bool] = lambda record: False
    ) -> None:
        """Open ``path`` after dropping all records later than ``resume_step`` (0: a fresh run, drop everything).

        Records of that step are dropped too if ``comes_again`` says that the resumed run writes them again.
        """
        self.path = path
        if path.exists():
            _drop_later(path, resume_step, comes_again)
        with readable_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", newline="\n")

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; UserError if it cannot be written."""
        assert not self._file.closed, f"{self.path} is closed"
        with readable_disk_errors(self.path):
            self._file.write(json.dumps(_finite(record), ensure_ascii=False, allow_nan=False, default=_plain) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with readable_disk_errors(self.path):
            self._file.close()


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of ``path`` (none if it does not exist); an incomplete line, left by a kill, is skipped."""
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path} cannot be read: {why_unreadable(error)}") from error
    with file:
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                yield record


def _drop_later(path: Path, resume_step: int, comes_again: Callable[[Mapping[str, Any]], bool]) -> None:
    kept = [
        record
        for record in read_json_lines(path)
        if 0 < resume_step >= record["step"] and not (record["step"] == resume_step and comes_again(record))
    ]
    with path.open("rb") as file:
        num_lines = sum(1 for _ in file)
    if len(kept) == num_lines and (num_lines == 0 or path.read_bytes().endswith(b"\n")):
        return
    replace_file(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))
    warn(
        f"{path}: {num_lines - len(kept)} of {num_lines} earlier records dropped (of updates after {resume_step}, or "
        "to be written again)"
    )


def _finite(record: Mapping[str, Any]) -> dict[str, Any]:
    non_finite = {
        name: str(float(value))
        for name, value in record.items()
        if not isinstance(value, (str, bytes)) and hasattr(value, "__float__") and not math.isfinite(float(value))
    }
    if not non_finite:
        return dict(record)
    return {name: None if name in non_finite else value for name, value in record.items()} | {"non_finite": non_finite}


def _plain(value: Any) -> Any:
    """Convert numpy and paddle scalars and arrays for JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON: {value!r}")
