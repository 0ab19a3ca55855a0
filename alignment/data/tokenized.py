"""The shared base of the four tokenised datasets: mix, check, encode, filter, account for every row."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from alignment.data.dataset_spec import Datasets, DatasetSpec, parse_datasets
from alignment.data.encode import EncodeOptions, Encoder
from alignment.data.ledger import BAD_ROWS, BadRow, Ledger
from alignment.data.mixing import split_rows
from alignment.data.mixture import Row, read_mixture
from alignment.data.tokenizer import Tokenizer
from alignment.errors import DataError

Sample = Mapping[str, Any]
Collator = Callable[[Sequence[Sample]], dict[str, Any]]


class Encoded(NamedTuple):
    """What became of one row."""

    sample: Sample | None
    """None: the row is not used."""
    reasons: tuple[str, ...] = ()
    """Ledger reasons: why it is not used, or what was changed."""
    detail: str = ""
    """A sentence with the place, for where the reason stops the run."""


class TokenizedDataset(ABC):
    """A list of token id samples; everything is encoded at construction, so the ledger is complete from the start."""

    KIND: ClassVar[str]

    def __init__(
        self,
        datasets: Datasets,
        tokenizer: Tokenizer,
        *,
        options: EncodeOptions | None = None,
        seed: int = 42,
        base_dir: Path | None = None,
    ) -> None:
        """Read, mix and encode ``datasets`` (see ``parse_datasets`` for the forms; relative paths: ``base_dir`` first).

        A row that cannot be used is counted in ``ledger`` or stops with a ``DataError``, as ``options`` say; that no
        row is left is always an error.
        """
        self.tokenizer = tokenizer
        self.options = EncodeOptions() if options is None else options
        self.seed = seed
        self.ledger = Ledger()
        self.collate = self.make_collator(tokenizer)
        self._encoder = Encoder(tokenizer, self.options.template)
        specs = parse_datasets(datasets, base_dir=base_dir)
        self._samples = list(self._encode_rows(read_mixture(specs, seed=seed, ledger=self.ledger)))
        if not self._samples:
            raise DataError(
                f"no row of {', '.join(map(_describe, specs))} can be used for a {self.KIND} dataset: "
                f"{self.ledger.summary()} (max_length {self.options.max_length}, max_prompt_length "
                f"{self.options.max_prompt_length}, on_overlong {self.options.on_overlong})"
            )

    @abstractmethod
    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Turn one checked row into a sample; missing fields are a ``DataError``."""

    @abstractmethod
    def make_collator(self, tokenizer: Tokenizer) -> Collator:
        """Return the function that pads samples to a batch."""

    def choose_rows(self, rows: Iterable[Row]) -> Iterable[Row]:
        """Return the rows to encode; a dataset kind may leave some out (and count them)."""
        return rows

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def resize(self, size: int) -> None:
        """Repeat the samples in order, or cut them, to exactly ``size``."""
        if size < 1:
            raise DataError(f"a dataset cannot be resized to {size} rows (allowed: 1 or more)")
        self._samples = [self._samples[index % len(self._samples)] for index in range(size)]

    def split_train_test(
        self, split_ratio: float = 0.2, shuffle: bool = True, seed: int | None = None
    ) -> tuple[TokenizedDataset, TokenizedDataset]:
        """Return (train, test) datasets that share this one's ledger; the seed defaults to the dataset's own."""
        parts = split_rows(len(self), split_ratio, shuffle=shuffle, seed=self.seed if seed is None else seed)
        train, test = (self._take(part) for part in parts)
        return train, test

    def _take(self, indices: np.ndarray) -> TokenizedDataset:
        part = copy.copy(self)
        part._samples = [self._samples[index] for index in indices.tolist()]
        return part

    def _encode_rows(self, rows: Iterable[Row]) -> Iterator[Sample]:
        seen: dict[tuple[str, int], Encoded] = {}
        for row in self.choose_rows(self._count_selected(rows)):
            key = (row.dataset, row.index)
            if key not in seen:
                seen[key] = self._encode(row)
            sample, reasons, detail = seen[key]
            self._account(row, reasons, detail)
            if sample is not None:
                self.ledger.add_size(row.dataset, selected=0, used=1)
                yield sample

    def _encode(self, row: Row) -> Encoded:
        try:
            if row.fault is not None:
                raise row.fault
            return self.encode_row(row, self._encoder)
        except BadRow as fault:
            return Encoded(None, (fault.reason,), str(fault))
        except DataError as error:
            if str(row.place) in str(error):
                raise
            raise DataError(f"{row.place}: {error}") from error

    def _count_selected(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self.ledger.add_size(row.dataset, selected=1, used=0)
            yield row

    def _account(self, row: Row, reasons: Sequence[str], detail: str) -> None:
        for reason in reasons:
            if reason in BAD_ROWS and self.options.on_bad_row == "error":
                detail = detail or f"{row.place}: {reason.replace('_', ' ')}"
                raise DataError(f"{detail}; set on_bad_row to drop to leave it out")
            self.ledger.add(row.dataset, reason, row.index)


def _describe(spec: DatasetSpec) -> str:
    path = spec.arguments.get("path")
    return spec.label if path is None or str(path) in spec.label else f"{spec.label} ({path})"


def to_ids(ids: Sequence[int]) -> np.ndarray:
    """Return token ids as an int64 array."""
    return np.asarray(ids, np.int64)
