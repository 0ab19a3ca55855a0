"""Any JSON lines file: columns are recognised, or named by ``<field>_key`` arguments.

Shapes of a row, by the columns it has:

- ``chosen`` and ``rejected`` (strings with a ``prompt``, or message lists), optionally with two scores
  (``chosen_score_key``, ``rejected_score_key``: equal scores are a tie);
- ``messages`` (a dialogue for supervised data);
- the fields of ``RawSample`` under their own names, or ``src`` and ``tgt``, or ``prompt``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignment.data.raw_dataset import RawDataset
from alignment.data.raw_sample import FIELDS
from alignment.data.sources.messages import is_messages, pair_of, plain_input, turns_of
from alignment.data.sources.tables import column, read_table
from alignment.errors import DataError
from alignment.records import RawSample
from alignment.registry import near_matches

KEYS = {
    "input_key": "input",
    "prompt_key": "input",
    "output_key": "answer",
    "answer_key": "answer",
    "label_key": "answer",
    "other_answer_key": "other_answer",
    "better_key": "better",
    "safer_key": "safer",
    "is_safe_key": "is_safe",
    "is_other_safe_key": "is_other_safe",
    "dialogue_key": "dialogue",
    "messages_key": "messages",
    "chosen_key": "chosen",
    "rejected_key": "rejected",
    "chosen_score_key": "chosen_score",
    "rejected_score_key": "rejected_score",
}
"""Constructor argument to what the named column holds (``label_key``: the reference answer of a prompt)."""

_USUAL_COLUMNS = {"input": ("input", "src", "prompt"), "answer": ("answer", "tgt")}


class JsonLinesDataset(RawDataset):
    """Rows of a ``.jsonl`` or ``.json`` file (or a folder of them) at ``path``; see the module docstring."""

    NAME = "jsonl"
    ALIASES = ("Jsonfile",)

    def __init__(self, path: str | Path | None = None, **keys: str) -> None:
        """Read ``path``; ``keys`` name columns, for example ``input_key="question", label_key="solution"``."""
        if path is None:
            raise DataError(f"dataset {self.NAME!r} needs a path: '{self.NAME}:1.0:PATH'")
        self._columns = _column_names(self.NAME, keys)
        self._table = read_table(path)

    def __len__(self) -> int:
        return len(self._table.rows)

    def __getitem__(self, index: int) -> RawSample:
        return convert_row(self._table.rows[index], self._columns, self.describe_row(index))

    def describe_row(self, index: int) -> str:
        """Return the dataset, the file, the line and the columns of the row."""
        return f"dataset {self.NAME!r}, row {index}: {self._table.describe(index)}"


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
