"""Tables of any layout: recognised (``layouts/table.py``), or with columns named by ``<field>_key`` arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignment.data.raw.layouts.mapping import BESIDE, KEYS, read_keys
from alignment.data.raw.layouts.rows import Reading, SampleRows
from alignment.data.raw.raw_dataset import RawDataset
from alignment.data.sources.hub import open_table
from alignment.errors import DataError
from alignment.records import RawSample
from alignment.registry import near_matches

_OTHER = ("layout", "ignored_columns", "split", "attributes")


class JsonLinesDataset(RawDataset):
    """Rows of a file or a folder at ``path`` (JSON lines, JSON, parquet, arrow), or of a hub dataset ``owner/name``."""

    NAME = "jsonl"
    ALIASES = ("Jsonfile",)
    OPTIONS = (*KEYS, *_OTHER)

    def __init__(self, path: str | Path | None = None, **options: Any) -> None:
        """Read ``path``.

        Options: columns (``input_key="question", label_key="solution"``; all names in ``layouts/mapping.py``),
        ``layout`` (a name of ``layouts/table.py``), ``ignored_columns``, ``split`` (names; the first that exists is
        read), ``attributes`` (columns with a number each; with ``attributes_key`` one column with a list of them).
        """
        if path is None:
            raise DataError(f"dataset {self.NAME!r} needs a path: '{self.NAME}:1.0:PATH'")
        place = f"dataset {self.NAME!r}"
        unknown = [name for name in options if name not in self.OPTIONS]
        if unknown:
            raise DataError(
                f"{place}: unknown argument {unknown[0]!r}{near_matches(unknown[0], self.OPTIONS)} "
                f"(allowed: path, {', '.join(self.OPTIONS)})"
            )
        columns = read_keys({name: value for name, value in options.items() if name in KEYS}, place)
        reading = Reading(
            columns={what: name for what, name in columns.items() if what not in BESIDE},
            beside={what: name for what, name in columns.items() if what in BESIDE},
            attributes=() if "attributes" in columns else _names(options.get("attributes"), "attributes", place),
            layout=options.get("layout"),
            ignored=frozenset(_names(options.get("ignored_columns"), "ignored_columns", place)),
        )
        splits = tuple(_names(options.get("split"), "split", place)) or None
        self._table = open_table(self.NAME, str(path), splits=splits)
        self._samples = SampleRows(self._table.rows, reading, self._describe)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> RawSample:
        return self._samples.sample(index)

    def describe_row(self, index: int) -> str:
        """Describe the row by its dataset, file, line and columns."""
        return self._samples.place(index)

    def notes(self) -> list[str]:
        """Return the split and the layouts that were read, and the columns that were not."""
        return self._table.notes() + self._samples.notes()

    def _describe(self, row: int) -> str:
        return f"dataset {self.NAME!r}, row {row}: {self._table.describe(row)}"


def _names(value: Any, key: str, place: str) -> tuple[str, ...]:
    """Return names given as a list or as comma-separated text; null: none."""
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value or ())
    if not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{place}: {key} must be names, got {value!r}")
    return tuple(names)
