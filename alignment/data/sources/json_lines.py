"""Any table of rows: its layout is recognised (``layouts/table.py``), or its columns are named by ``<what>_key``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.data.layouts.mapping import KEYS, read_keys
from alignment.data.layouts.rows import Reading, SampleRows
from alignment.data.raw_dataset import RawDataset
from alignment.data.sources.hub import open_table
from alignment.errors import DataError
from alignment.records import RawSample
from alignment.registry import near_matches

_OTHER = ("layout", "ignored_columns", "split")


class JsonLinesDataset(RawDataset):
    """Rows of a file or a folder at ``path`` (JSON lines, JSON, parquet, arrow), or of a hub dataset ``owner/name``."""

    NAME = "jsonl"
    ALIASES = ("Jsonfile",)
    OPTIONS = (*KEYS, *_OTHER)

    def __init__(self, path: str | Path | None = None, **options: Any) -> None:
        """Read ``path``.

        Options: columns (``input_key="question", label_key="solution"``; all names in ``layouts/mapping.py``),
        ``layout`` (a name of ``layouts/table.py``), ``ignored_columns`` (left out), ``split`` (one name, or several of
        which the first one found is read).
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
        reading = Reading(
            columns=read_keys({name: value for name, value in options.items() if name in KEYS}, place),
            layout=options.get("layout"),
            ignored=frozenset(_names(options.get("ignored_columns"), "ignored_columns", place)),
        )
        splits = tuple(_names(options.get("split"), "split", place)) or None
        self._table = open_table(self.NAME, str(path), split=splits)
        self._samples = SampleRows(self._table.rows, reading, self._describe)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> RawSample:
        return self._samples.sample(index)

    def describe_row(self, index: int) -> str:
        """Return the dataset, the file, the line and the columns of the row."""
        return self._samples.place(index)

    def notes(self) -> list[str]:
        """Return what was read as what, and the columns that were not read."""
        return self._table.notes() + self._samples.notes()

    def _describe(self, row: int) -> str:
        return f"dataset {self.NAME!r}, row {row}: {self._table.describe(row)}"


<<<<<<< HEAD
def convert_row(row: Mapping[str, Any], columns: Mapping[str, str], place: str) -> RawSample:
    """Turn one row into a sample; ``columns`` (what -> column name) wins over the usual names."""
    if "chosen" in columns or ("answer" not in columns and {"chosen", "rejected"} <= row.keys()):
        return _convert_pair(row, columns, place)
    if "messages" in columns or (not columns and "messages" in row):
        messages = column(row, columns.get("messages", "messages"), place)
        if not is_messages(messages):
            raise DataError(f"{place}: column {columns.get('messages', 'messages')!r} must be a list of messages")
        return RawSample(dialogue=turns_of(messages, place))
    fields = [field for field in FIELDS if field != "messages" and _has(row, field, columns)]
    sample = {field: _find(row, field, columns, place) for field in fields}
    if not sample:
        raise DataError(
            f"{place}: no known column; name it, for example input_key=... (known: {', '.join(FIELDS)}, src, tgt, "
            "prompt, messages, chosen, rejected)"
        )
    if "input" in sample:
        sample["input"] = plain_input(sample["input"], place)
    return RawSample(**sample)


def _convert_pair(row: Mapping[str, Any], columns: Mapping[str, str], place: str) -> RawSample:
    chosen = column(row, columns.get("chosen", "chosen"), place)
    rejected = column(row, columns.get("rejected", "rejected"), place)
    prompt = _find(row, "input", columns, place) if _has(row, "input", columns) else None
    value, answer, other_answer = pair_of(prompt, chosen, rejected, place)
    sample = RawSample(input=value, answer=answer, other_answer=other_answer, better=True)
    if "chosen_score" in columns:
        sample["better"] = _compare(row, columns, place)
    return sample


def _compare(row: Mapping[str, Any], columns: Mapping[str, str], place: str) -> bool | None:
    """Return whether the chosen score is higher; None for a tie."""
    scores = [column(row, columns[name], place) for name in ("chosen_score", "rejected_score")]
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise DataError(f"{place}: score {score!r} must be a number")
    return None if scores[0] == scores[1] else scores[0] > scores[1]


def _has(row: Mapping[str, Any], field: str, columns: Mapping[str, str]) -> bool:
    return field in columns or any(name in row for name in _USUAL_COLUMNS.get(field, (field,)))


def _find(row: Mapping[str, Any], field: str, columns: Mapping[str, str], place: str) -> Any:
    if field in columns:
        return column(row, columns[field], place)
    return next(row[name] for name in _USUAL_COLUMNS.get(field, (field,)) if name in row)


def _column_names(dataset: str, keys: Mapping[str, str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for key, name in keys.items():
        if key not in KEYS:
            raise DataError(
                f"dataset {dataset!r}: unknown argument {key!r}{near_matches(key, KEYS)} "
                f"(allowed: path, {', '.join(KEYS)})"
            )
        if not isinstance(name, str) or not name:
            raise DataError(f"dataset {dataset!r}: {key} must be a column name, got {name!r}")
        if KEYS[key] in columns:
            raise DataError(f"dataset {dataset!r}: {key} and another argument both name the column of the {KEYS[key]}")
        columns[KEYS[key]] = name
    for first, second in (("chosen", "rejected"), ("chosen_score", "rejected_score")):
        if (first in columns) != (second in columns):
            raise DataError(f"dataset {dataset!r}: {first}_key and {second}_key go together")
    return columns
=======
def _names(value: Any, key: str, place: str) -> Sequence[str]:
    """Return names given as a list, or as text with commas; null: none."""
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value or ())
    if not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{place}: {key} must be names, got {value!r}")
    return names
>>>>>>> ba58e19 (WIP layouts)
