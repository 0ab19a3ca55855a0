"""Samples packed into a few arrays, one column per field, in memory or memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Sample = Mapping[str, Any]


def count_tokens(sample: Sample) -> int:
    """Return the tokens of all sequences of ``sample`` that a model reads: of both answers of a pair."""
    return sum(len(value) for field, value in sample.items() if field.endswith("input_ids"))


class NotPlainError(ValueError):
    """A value that does not survive a JSON round trip."""


class Ragged(NamedTuple):
    """Token ids of different lengths."""

    values: np.ndarray
    """[all tokens] int32."""
    bounds: np.ndarray
    """[n + 1] int64: row i is ``values[bounds[i] : bounds[i + 1]]``."""

    def read(self, row: int) -> np.ndarray:
        """Return a new int64 array."""
        return self.values[self.bounds[row] : self.bounds[row + 1]].astype(np.int64)


class Numbers(NamedTuple):
    """One integer per row."""

    values: np.ndarray
    """[n] int64."""

    def read(self, row: int) -> int:
        """Return a Python number."""
        return int(self.values[row])


class Objects(NamedTuple):
    """Python values: texts, lists or None."""

    values: list[Any]

    def read(self, row: int) -> Any:
        """Return the value."""
        return self.values[row]


class Json(NamedTuple):
    """Texts, lists or None, serialised for disk."""

    values: np.ndarray
    """[all bytes] uint8, UTF-8."""
    bounds: np.ndarray
    """[n + 1] int64."""

    def read(self, row: int) -> Any:
        """Return a new copy of the value."""
        return json.loads(self.values[self.bounds[row] : self.bounds[row + 1]].tobytes())


Column = Ragged | Numbers | Objects | Json
_ON_DISK: dict[str, type[Ragged] | type[Numbers] | type[Json]] = {"ragged": Ragged, "numbers": Numbers, "json": Json}


class Store(NamedTuple):
    """Columns of equal length."""

    columns: dict[str, Column]
    """Field to column; empty if there are no rows."""
    size: int

    @classmethod
    def pack(cls, samples: Sequence[Sample]) -> Store:
        """Pack samples that all have the same fields."""
        fields = list(samples[0]) if samples else []
        return cls({field: _pack([sample[field] for sample in samples]) for field in fields}, len(samples))

    @classmethod
    def join(cls, stores: Sequence[Store]) -> Store:
        """Concatenate ``stores``."""
        filled = [store for store in stores if store.size]
        fields = list(filled[0].columns) if filled else []
        return cls(
            {field: _join([store.columns[field] for store in filled]) for field in fields},
            sum(store.size for store in filled),
        )

    def read(self, row: int) -> dict[str, Any]:
        """Return one sample; ids are new int64 arrays."""
        return {field: column.read(row) for field, column in self.columns.items()}

    def save(self, folder: Path) -> dict[str, str]:
        """Write one ``.npy`` file per array; return the kind of each column. NotPlainError if one cannot be saved."""
        kinds = {}
        for number, (field, column) in enumerate(self.columns.items()):
            plain = _plain(column) if isinstance(column, Objects) else column
            kinds[field] = next(kind for kind, column_type in _ON_DISK.items() if isinstance(plain, column_type))
            for part, values in plain._asdict().items():
                np.save(folder / f"{number}.{part}.npy", values, allow_pickle=False)
        return kinds

    @classmethod
    def load(cls, folder: Path, kinds: Mapping[str, str], size: int) -> Store:
        """Memory-map what ``save`` wrote."""
        columns = {}
        for number, (field, kind) in enumerate(kinds.items()):
            parts = [
                np.load(folder / f"{number}.{part}.npy", mmap_mode="r", allow_pickle=False)
                for part in _ON_DISK[kind]._fields
            ]
            columns[field] = _ON_DISK[kind](*parts)
        return cls(columns, size)


def _pack(values: Sequence[Any]) -> Column:
    if all(isinstance(value, np.ndarray) and value.dtype == np.int64 and value.ndim == 1 for value in values):
        joined = np.concatenate(values)
        if not joined.size or (joined.min() >= -(2**31) and joined.max() < 2**31):
            return Ragged(joined.astype(np.int32), _bounds(list(map(len, values))))
    if all(type(value) is int for value in values):
        return Numbers(np.array(values, np.int64))
    return Objects(list(values))


def _join(columns: Sequence[Column]) -> Column:
    first = columns[0]
    if isinstance(first, Ragged) and all(isinstance(column, Ragged) for column in columns):
        lengths = np.concatenate([np.diff(column.bounds) for column in columns])
        return Ragged(np.concatenate([column.values for column in columns]), _bounds(lengths))
    if isinstance(first, Numbers) and all(isinstance(column, Numbers) for column in columns):
        return Numbers(np.concatenate([column.values for column in columns]))
    return Objects([column.read(row) for column in columns for row in range(_rows(column))])


def _rows(column: Column) -> int:
    return len(column.bounds) - 1 if isinstance(column, (Ragged, Json)) else len(column.values)


def _bounds(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _plain(column: Objects) -> Json:
    texts = []
    for value in column.values:
        try:
            text = json.dumps(value)
        except (TypeError, ValueError) as error:
            raise NotPlainError(str(error)) from error
        if type(value) is not str and json.loads(text) != value:
            raise NotPlainError(f"{value!r:.60} does not survive a JSON round trip")
        texts.append(text.encode())
    return Json(np.frombuffer(b"".join(texts), np.uint8), _bounds(list(map(len, texts))))
