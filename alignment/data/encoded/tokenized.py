"""The shared base of the four tokenised datasets: mix, check, encode, filter, account for every row."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from alignment.data.encode import EncodeOptions, Encoder
from alignment.data.encoded.build import HERE, Encoding, build
from alignment.data.encoded.chunks import Encoded
from alignment.data.encoded.mixture import Mixture, Row
from alignment.data.encoded.store import Sample, Store
from alignment.data.ledger import BadRow, Ledger
from alignment.data.raw.dataset_spec import Datasets, DatasetSpec, parse_datasets
from alignment.data.raw.mixing import split_rows
from alignment.data.raw.raw_dataset import dataset_class_of
from alignment.data.tokenizer import TokenizerLike, WorkingTokenizer
from alignment.errors import DataError

Collator = Callable[[Sequence[Sample]], dict[str, Any]]


class TokenizedDataset(ABC):
    """A list of token id samples; all rows are encoded together, so the ledger is complete as soon as there is one."""

    KIND: ClassVar[str]

    def __init__(
        self,
        datasets: Datasets,
        tokenizer: TokenizerLike,
        lazy_tokenization: bool = False,
        *,
        options: EncodeOptions | None = None,
        seed: int = 42,
        base_dir: Path | None = None,
        encoding: Encoding = HERE,
    ) -> None:
        """Read, mix and encode ``datasets`` (see ``parse_datasets`` for the forms; relative paths: ``base_dir`` first).

        A row that cannot be used is counted in ``ledger`` or stops with a ``DataError``, as ``options`` say; that no
        row is left is always an error. ``lazy_tokenization``: all this happens when the dataset is first used (its
        length, a sample, the ledger), which changes nothing else. ``encoding``: who encodes, and where that is kept.
        """
        self.tokenizer = tokenizer
        self.options = EncodeOptions() if options is None else options
        self.seed = seed
        self.collate = self.make_collator(tokenizer)
        self._encoder = Encoder(tokenizer, self.options.template)
        self._ledger = Ledger()
        self._store, self._order = Store.pack(()), np.empty(0, np.int64)
        specs = parse_datasets(datasets, base_dir=base_dir)
        self.options_taken = frozenset().union(*(dataset_class_of(spec.name).accepted_options() for spec in specs))
        """Names of the options that some raw dataset here takes."""
        self._pending: _Pending | None = _Pending(specs, encoding)
        if not lazy_tokenization:
            self._ready()

    @property
    def ledger(self) -> Ledger:
        """What became of every row."""
        self._ready()
        return self._ledger

    @abstractmethod
    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Turn one checked row into a sample; missing fields are a ``DataError``."""

    @abstractmethod
    def make_collator(self, tokenizer: TokenizerLike) -> Collator:
        """Return the function that pads samples to a batch."""

    def choose_rows(self, rows: Iterable[Row]) -> Iterable[Row]:
        """Return the rows to encode; a dataset kind may leave some out (and count them)."""
        return rows

    def get_collator(self) -> Collator:
        """Return what makes a padded batch of samples; the same as ``collate``."""
        return self.collate

    def __len__(self) -> int:
        self._ready()
        return len(self._order)

    def __getitem__(self, index: int) -> Sample:
        self._ready()
        return self._store.read(self._order[index])

    def __iter__(self) -> Iterator[Sample]:
        self._ready()
        return (self._store.read(row) for row in self._order)

    def resize(self, size: int) -> None:
        """Repeat the samples in order, or cut them, to exactly ``size``."""
        if size < 1:
            raise DataError(f"a dataset cannot be resized to {size} rows (allowed: 1 or more)")
        self._order = np.resize(self._order, size) if len(self) else self._order

    def split_train_test(
        self, split_ratio: float = 0.2, shuffle: bool = True, seed: int | None = None
    ) -> tuple[TokenizedDataset, TokenizedDataset]:
        """Return (train, test) datasets that share this one's ledger; the seed defaults to the dataset's own."""
        parts = split_rows(len(self), split_ratio, shuffle=shuffle, seed=self.seed if seed is None else seed)
        train, test = (self._take(part) for part in parts)
        return train, test

    def encode(self, row: Row) -> Encoded:
        """Encode one row as ``encode_row`` does; an error in it names its place."""
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

    @property
    def is_own(self) -> bool:
        """False: the class is a user's, whose code other processes cannot import and no later start can compare."""
        return type(self).__module__.startswith(f"{__package__}.")

    def for_worker(self) -> TokenizedDataset:
        """Return a dataset without rows, which encodes in another process."""
        bare = copy.copy(self)
        bare._pending, bare._ledger, bare._store = None, Ledger(), Store.pack(())
        return bare

    def in_worker(self) -> TokenizedDataset:
        """Return what ``for_worker`` gave as the other process uses it."""
        working = copy.copy(self)
        if isinstance(self.tokenizer, WorkingTokenizer):
            working.tokenizer = self.tokenizer.in_worker()
            working._encoder = Encoder(working.tokenizer, self.options.template)
        return working

    def _take(self, indices: np.ndarray) -> TokenizedDataset:
        part = copy.copy(self)
        part._order = self._order[indices]
        return part

    def _ready(self) -> None:
        """Encode all rows, unless that was done."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            self._build(pending)
        except BaseException:
            self._pending, self._ledger = pending, Ledger()
            raise

    def _build(self, pending: _Pending) -> None:
        mixture = Mixture(pending.specs, seed=self.seed, ledger=self._ledger)
        setup = {"datasets": [repr(spec) for spec in pending.specs], "seed": self.seed}
        self._store, self._order, _ = build(self, mixture, pending.encoding, setup)
        if not len(self._order):
            raise DataError(
                f"no row of {', '.join(map(_describe, pending.specs))} can be used for a {self.KIND} dataset: "
                f"{self._ledger.summary()} (max_length {self.options.max_length}, max_prompt_length "
                f"{self.options.max_prompt_length}, on_overlong {self.options.on_overlong})"
            )


class _Pending(NamedTuple):
    """What is still to be read and encoded."""

    specs: list[DatasetSpec]
    encoding: Encoding


def _describe(spec: DatasetSpec) -> str:
    path = spec.arguments.get("path")
    return spec.label if path is None or str(path) in spec.label else f"{spec.label} ({path})"


def to_ids(ids: Sequence[int]) -> np.ndarray:
    """Return token ids as an int64 array."""
    return np.asarray(ids, np.int64)
