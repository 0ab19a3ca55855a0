"""Worker processes that encode rows while this process reads them."""

from __future__ import annotations

import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

from alignment.data.encoded.chunks import Chunk, Encoded, encode_chunk, pack_rows
from alignment.data.encoded.mixture import Row
from alignment.telemetry import log
from alignment.telemetry.exit_status import describe_exit

_START = (
    "import os, sys; os.environ['TOKENIZERS_PARALLELISM'] = 'false'; sys.path[:] = sys.argv[1:]; "
    "from alignment.data.encoded.worker import main; main()"
)
"""With one process per core, threads of the tokenizer library would only compete."""
_AHEAD = 3
"""Chunks in flight per worker."""


class Batch(NamedTuple):
    """Rows in order, and those among them that have yet to be encoded."""

    rows: Sequence[Row]
    fresh: Sequence[Row]


def encode_here(batches: Iterable[Batch], encode: Callable[[Row], Encoded]) -> Iterator[tuple[Batch, Chunk]]:
    """Yield each batch with its encoded rows, encoding in this process."""
    return ((batch, encode_chunk(encode, batch.fresh)) for batch in batches)


class Worker:
    """One process and the pipes to it."""

    def __init__(self, dataset: bytes) -> None:
        """``dataset`` is the pickled dataset that encodes."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._to.write(dataset)

    def encode(self, rows: Sequence[Row]) -> Chunk | None:
        """Return the encoded rows; None if the process has died."""
        try:
            pickle.dump(pack_rows(rows), self._to, protocol=pickle.HIGHEST_PROTOCOL)
            self._to.flush()
            chunk: Chunk = pickle.load(self._from)
        except (OSError, EOFError, pickle.UnpicklingError, ValueError):
            return None
        return chunk

    def end(self) -> str:
        """Kill the process and describe how it ended."""
        self._process.poll()
        self._process.kill()
        for pipe in (self._to, self._from):
            try:
                pipe.close()
            except OSError:  # the process is gone; unwritten data does not matter
                continue
        return describe_exit(self._process.wait())


class Pool:
    """``num_workers`` processes; the rows of a process that dies are encoded in this one, with a warning."""

    def __init__(self, dataset: Any, encode: Callable[[Row], Encoded], *, num_workers: int) -> None:
        """``dataset`` is pickled and encodes in the workers; ``encode`` does the same in this process."""
        pickled = pickle.dumps(dataset)
        self._encode_here = encode
        self._workers = [Worker(pickled) for _ in range(num_workers)]
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._is_ending = False

    def encode(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Chunk]]:
        """Yield each batch with its encoded rows, in order; a few batches are encoded ahead."""
        waiting: deque[tuple[Batch, Future[Chunk]]] = deque()
        with ThreadPoolExecutor(len(self._workers)) as threads, self._ended():
            for batch in batches:
                waiting.append((batch, threads.submit(self._encode, batch.fresh)))
                if len(waiting) > _AHEAD * len(self._workers):
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()

    def _encode(self, rows: Sequence[Row]) -> Chunk:
        worker = self._idle.get()
        chunk = worker.encode(rows) if worker is not None else None
        if worker is not None and chunk is None and not self._is_ending:
            log.warn(f"a worker process that encodes rows {worker.end()}; its rows are encoded in this process")
        self._idle.put(worker if chunk is not None else None)
        return encode_chunk(self._encode_here, () if self._is_ending else rows) if chunk is None else chunk

    @contextmanager
    def _ended(self) -> Iterator[None]:
        """Kill the processes afterwards, which also unblocks waiting threads."""
        try:
            yield
        finally:
            self._is_ending = True
            for worker in self._workers:
                worker.end()
