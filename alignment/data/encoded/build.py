"""Build a store from rows: read them, encode them here or in worker processes, account for each, cache the result."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from alignment.data.encode import EncodeOptions
from alignment.data.encoded.cache import CacheEntry, EncodedCache, describe_setup
from alignment.data.encoded.chunks import Chunk, Encoded, pack_rows
from alignment.data.encoded.mixture import Mixture, Row
from alignment.data.encoded.pool import Batch, Pool, encode_here
from alignment.data.encoded.store import Store
from alignment.data.ledger import BAD_ROWS, Ledger
from alignment.data.tokenizer import TokenizerLike
from alignment.errors import DataError
from alignment.telemetry import log
from alignment.telemetry.progress import Progress

MANY_ROWS = 20_000
"""From this number of rows on, worker processes are used and the result is cached; fewer take a moment."""
MOST_WORKERS = 16
ROWS_PER_BATCH = 1000
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Which processes encode, and where the result is cached."""

    num_workers: int | None = None
    """Worker processes; None: one per processor core, 0: encode in this process."""
    cache_dir: Path | None = None
    """None: nothing is cached."""
    many: int = MANY_ROWS
    """Fewer rows than this are encoded in this process and not cached."""
    show_progress: bool = False
    """True: show a progress bar, or log a line every few seconds if there is no terminal."""


HERE = Encoding(num_workers=0)


class EncodingJob(Protocol):
    """What encoding needs of a dataset."""

    KIND: str
    tokenizer: TokenizerLike
    options: EncodeOptions
    ledger: Ledger
    is_own: bool
    """True: only this package's code makes its samples, so workers and the cache may be used."""

    def encode(self, row: Row) -> Encoded:
        """Encode one row; errors name the row."""

    def split_row(self, row: Row) -> Sequence[Row]:
        """Return the parts of a row that become samples of their own."""

    def choose_rows(self, rows: Iterable[Row]) -> Iterable[Row]:
        """Return the rows to encode."""

    def for_worker(self) -> Any:
        """Return a picklable copy that encodes in another process."""


def build(job: EncodingJob, mixture: Mixture, encoding: Encoding, setup: dict[str, Any]) -> CacheEntry:
    """Return the samples of ``mixture`` and fill ``job.ledger``; ``setup`` identifies the dataset in the cache.

    The result does not depend on the number of workers or on the cache. A row that may not be dropped is a DataError.
    """
    if len(mixture) < encoding.many:
        return _encode(job, mixture, lambda batches: encode_here(batches, job.encode), lambda num_rows: None)
    started, hasher = time.monotonic(), hashlib.sha256()
    rows: Iterable[Row] = _hashed(mixture, hasher)
    cache = _open_cache(job, encoding, setup)
    if cache is not None and cache.may_hold:
        rows = list(rows)
        kept = cache.load(hasher.hexdigest())
        if kept is not None:
            job.ledger.restore(kept.account)
            log.info(f"{len(rows)} rows were encoded before: read from {encoding.cache_dir}")
            return kept
    with (
        _run(job, encoding) as run,
        Progress(len(mixture), f"encoding {job.KIND} rows", enabled=encoding.show_progress) as progress,
    ):
        entry = _encode(job, rows, run, Meter(progress))
    seconds = time.monotonic() - started
    log.info(f"{len(mixture)} rows encoded in {seconds:.1f} s ({len(mixture) / seconds:.0f} rows/s)")
    if cache is not None:
        cache.save(hasher.hexdigest(), entry)
    return entry


class Meter:
    """Advances a progress display and adds the speed every few seconds."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._started = self._told = time.monotonic()

    def __call__(self, num_rows: int) -> None:
        """Count ``num_rows`` more."""
        now, shown = time.monotonic(), {}
        if now - self._told >= _SECONDS_BETWEEN_LINES:
            self._told = now
            shown = {"rows/s": f"{(self._progress.completed + num_rows) / (now - self._started):.0f}"}
        self._progress.advance(num_rows, **shown)


Run = Callable[[Iterable[Batch]], Iterable[tuple[Batch, Chunk]]]


class _Outcome(NamedTuple):
    """Outcome of a raw row, however often it was selected."""

    stored: int
    """Index in the store; -1: not used."""
    reasons: tuple[str, ...]


def _encode(job: EncodingJob, rows: Iterable[Row], run: Run, show: Callable[[int], None]) -> CacheEntry:
    known: dict[tuple[str, int, int], _Outcome] = {}
    used: Counter[str] = Counter()
    stores, order, num_stored = [], [], 0
    parts = (part for row in rows for part in job.split_row(row))
    chosen = job.choose_rows(_count_selected(parts, job.ledger))
    for batch, chunk in run(_batches(chosen)):
        stores.append(chunk.store)
        for number, row in enumerate(batch.fresh):
            if number == chunk.failed_at:
                job.encode(row)
                raise DataError(f"{row.place}: encoding failed in a worker process but works in this one")
            is_used = bool(chunk.used[number])
            known[_key(row)] = _Outcome(num_stored if is_used else -1, chunk.reasons.get(number, ()))
            num_stored += is_used
        for row in batch.rows:
            outcome = known[_key(row)]
            if outcome.reasons:
                _account(job, row, outcome.reasons)
            if outcome.stored >= 0:
                used[row.dataset] += 1
                order.append(outcome.stored)
        show(sum(not row.part for row in batch.rows))
    for dataset, count in used.items():
        job.ledger.add_size(dataset, selected=0, used=count)
    return CacheEntry(Store.join(stores), np.array(order, np.int64), job.ledger.as_dict())


def _batches(rows: Iterable[Row]) -> Iterator[Batch]:
    seen: set[tuple[str, int, int]] = set()
    stream = iter(rows)
    while batch := list(islice(stream, ROWS_PER_BATCH)):
        fresh = []
        for row in batch:
            if _key(row) not in seen:
                seen.add(_key(row))
                fresh.append(row)
        yield Batch(batch, fresh)


def _key(row: Row) -> tuple[str, int, int]:
    return row.dataset, row.index, row.part


def _count_selected(rows: Iterable[Row], ledger: Ledger) -> Iterator[Row]:
    """Yield ``rows``, and at the end add the number of rows of each dataset to ``ledger``."""
    selected: Counter[str] = Counter()
    try:
        for row in rows:
            selected[row.dataset] += 1
            yield row
    finally:
        for dataset, count in selected.items():
            ledger.add_size(dataset, selected=count, used=0)


def _account(job: EncodingJob, row: Row, reasons: Sequence[str]) -> None:
    for reason in reasons:
        if reason in BAD_ROWS and job.options.on_bad_row == "error":
            detail = job.encode(row).detail or f"{row.place}: {reason.replace('_', ' ')}"
            raise DataError(f"{detail}; set on_bad_row to drop to leave it out")
        job.ledger.add(row.dataset, reason, row.index)


def _hashed(rows: Iterable[Row], hasher: Any) -> Iterator[Row]:
    """Yield ``rows`` and feed them to ``hasher``, in blocks of fixed size."""
    stream = iter(rows)
    while block := list(islice(stream, ROWS_PER_BATCH)):
        hasher.update(pack_rows(block))
        yield from block


def _open_cache(job: EncodingJob, encoding: Encoding, setup: dict[str, Any]) -> EncodedCache | None:
    if encoding.cache_dir is None or not job.is_own:
        return None
    text = describe_setup(job.tokenizer, {"kind": job.KIND, "options": repr(job.options), **setup})
    return None if text is None else EncodedCache(encoding.cache_dir, text)


@contextmanager
def _run(job: EncodingJob, encoding: Encoding) -> Iterator[Run]:
    """Provide the function that encodes batches: in worker processes if wanted and if the dataset can be pickled."""
    num_workers = encoding.num_workers
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_workers = min(cores, MOST_WORKERS)
    if not num_workers or not job.is_own:
        yield lambda batches: encode_here(batches, job.encode)
        return
    try:
        pool = Pool(job.for_worker(), job.encode, num_workers=num_workers)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        log.info(f"rows are encoded in this process: the tokenizer or dataset cannot be pickled ({error})")
        yield lambda batches: encode_here(batches, job.encode)
        return
    yield pool.encode
