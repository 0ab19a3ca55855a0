"""The base of all tokenised datasets: mix, check, encode and filter rows, and account for each one."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from alignment.data.encode import EncodeOptions, Encoder
from alignment.data.encoded.build import HERE, Encoding, build
from alignment.data.encoded.chunks import Encoded
from alignment.data.encoded.mixture import Mixture, Row
from alignment.data.encoded.store import Sample, Store
from alignment.data.encoded.unknown import DIFFERENCE_SAYS, count_unknown, describe_unknown
from alignment.data.ledger import NO_ATTRIBUTE, UNKNOWN_DIFFERENCE, UNKNOWN_TOKENS, BadRow, Ledger
from alignment.data.raw.dataset_spec import Datasets, DatasetSpec, parse_datasets
from alignment.data.raw.mixing import split_rows
from alignment.data.raw.raw_dataset import dataset_class_of
from alignment.data.tokenizer import TokenizerLike, WorkingTokenizer, padding_id
from alignment.errors import DataError


class Collator(ABC):
    """Pads samples to a batch."""

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    @abstractmethod
    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return the padded batch."""


class TokenizedDataset(ABC):
    """A list of tokenised samples; all rows are encoded at once, so the ledger is complete before the first sample."""

    KIND: ClassVar[str]
    COLLATOR: ClassVar[type[Collator]]
    COMPARES_ANSWERS: ClassVar[bool] = False
    """Whether samples with the same prompt hold answers that are judged; a split never separates them."""

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

        A row that cannot be used is counted in ``ledger`` or raises a ``DataError``, depending on ``options``; having
        no rows left is always an error. ``lazy_tokenization`` postpones all this until the dataset is first used (its
        length, a sample or the ledger). ``encoding``: which processes encode, and where the result is cached.
        """
        self.tokenizer = tokenizer
        self.options = EncodeOptions() if options is None else options
        self.seed = seed
        self.collate = self.COLLATOR(padding_id(tokenizer))
        self._encoder = Encoder(tokenizer, self.options.template)
        self._ledger = Ledger()
        self._store, self._order = Store.pack(()), np.empty(0, np.int64)
        specs = parse_datasets(datasets, base_dir=base_dir)
        self.options_taken = frozenset().union(*(dataset_class_of(spec.name).accepted_options() for spec in specs))
        """Names of the options that at least one raw dataset here accepts."""
        self._pending: _Pending | None = _Pending(specs, encoding)
        if not lazy_tokenization:
            self._ready()

    @property
    def ledger(self) -> Ledger:
        """The account of every row that was dropped or changed."""
        self._ready()
        return self._ledger

    @abstractmethod
    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Turn one checked row into a sample; a missing field is a ``DataError``."""

    def split_row(self, row: Row) -> Sequence[Row]:
        """Return the parts of a row that become samples of their own; a subclass may split it."""
        return (row,)

    def choose_rows(self, rows: Iterable[Row]) -> Iterable[Row]:
        """Return the rows to encode; a subclass may drop some (and count them)."""
        return rows

    def get_collator(self) -> Collator:
        """Return ``collate``, which pads samples to a batch."""
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
        """Repeat or cut the samples, in order, to exactly ``size``."""
        if size < 1:
            raise DataError(f"a dataset cannot be resized to {size} rows (allowed: 1 or more)")
        self._order = np.resize(self._order, size) if len(self) else self._order

    def split_train_test(
        self, split_ratio: float = 0.2, shuffle: bool = True, seed: int | None = None
    ) -> tuple[TokenizedDataset, TokenizedDataset]:
        """Return (train, test) datasets that share this one's ledger; the seed defaults to the dataset's own.

        The ratio is one of rows, or of prompts if the dataset ``COMPARES_ANSWERS``.
        """
        units = self._prompts() if self.COMPARES_ANSWERS else np.arange(len(self))[:, None]
        parts = split_rows(len(units), split_ratio, shuffle=shuffle, seed=self.seed if seed is None else seed)
        train, test = (self._take(np.array([row for unit in part for row in units[unit]], np.int64)) for part in parts)
        return train, test

    def encode(self, row: Row) -> Encoded:
        """Encode one row as ``encode_row`` does; errors name the row."""
        try:
            if row.fault is not None:
                raise row.fault
            encoded = self.encode_row(row, self._encoder)
            known = encoded.sample is None or not count_unknown(encoded.sample, self._encoder.unknown_id)
            return encoded if known else encoded._replace(reasons=(*encoded.reasons, UNKNOWN_TOKENS))
        except BadRow as fault:
            return Encoded(None, (fault.reason,), str(fault))
        except DataError as error:
            if str(row.place) in str(error):
                raise
            raise DataError(f"{row.place}: {error}") from error

    @property
    def is_own(self) -> bool:
        """False: a user's class, which other processes may not be able to import and the cache key does not cover."""
        return type(self).__module__.startswith(f"{__package__}.")

    def for_worker(self) -> TokenizedDataset:
        """Return a copy without rows, to encode in another process."""
        bare = copy.copy(self)
        bare._pending, bare._ledger, bare._store = None, Ledger(), Store.pack(())
        return bare

    def in_worker(self) -> TokenizedDataset:
        """Return the copy that a worker process encodes with."""
        working = copy.copy(self)
        if isinstance(self.tokenizer, WorkingTokenizer):
            working.tokenizer = self.tokenizer.in_worker()
            working._encoder = Encoder(working.tokenizer, self.options.template)
        return working

    def describe_unknown(self) -> str | None:
        """Describe how much text the tokenizer does not know, with an example; None if it knows all of it."""
        if not self.ledger.total(UNKNOWN_TOKENS):
            return None
        counts = [count_unknown(sample, self._encoder.unknown_id) for sample in self]
        return describe_unknown(self, counts, self._encoder.unknown_id) if any(counts) else None

    def _prompts(self) -> list[list[int]]:
        """Return the rows of each prompt, in the order of the first ones."""
        found: dict[bytes, list[int]] = {}
        for number, sample in enumerate(self):
            found.setdefault(prompt_of(sample), []).append(number)
        return list(found.values())

    def _take(self, indices: np.ndarray) -> TokenizedDataset:
        part = copy.copy(self)
        part._order = self._order[indices]
        return part

    def _ready(self) -> None:
        """Encode all rows, unless already done."""
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
                + "".join(says for reason, says in _HINTS.items() if self._ledger.total(reason))
            )


_HINTS = {
    NO_ATTRIBUTE: ". Do the rows have numbers in columns with the names that attributes (or attributes_key) gives?",
    UNKNOWN_DIFFERENCE: DIFFERENCE_SAYS,
}
"""What a message adds if rows were dropped for this reason, and none is left."""


class _Pending(NamedTuple):
    """What has yet to be read and encoded."""

    specs: list[DatasetSpec]
    encoding: Encoding


def _describe(spec: DatasetSpec) -> str:
    path = spec.arguments.get("path")
    return spec.label if path is None or str(path) in spec.label else f"{spec.label} ({path})"


def prompt_of(sample: Sample) -> bytes:
    """Return the tokens before the answer, or before the first of several answers, in a form that can be compared.

    A sample whose answers stand inside the prompt has a digest of what they answer instead.
    """
    if "prompt_digest" in sample:
        return str(sample["prompt_digest"]).encode()
    ids = next(value for name, value in sample.items() if name.endswith("input_ids"))
    length = sample["prompt_length"] if "prompt_length" in sample else int(np.argmax(sample["labels"] == ids))
    return ids[:length].tobytes()


def to_ids(ids: Sequence[int]) -> np.ndarray:
    """Return token ids as an int64 array."""
    return np.asarray(ids, np.int64)
