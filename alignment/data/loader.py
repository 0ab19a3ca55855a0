"""Batches in an order that depends only on (seed, epoch), with a position that can be saved and restored exactly."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from zlib import crc32

import numpy as np

from alignment.data.encoded.tokenized import Sample, TokenizedDataset
from alignment.data.ledger import LAST_BATCH
from alignment.errors import CheckpointError, DataError
from alignment.telemetry.wording import counted


def fingerprint(samples: Sequence[Sample]) -> int:
    """Return a checksum of the samples and their order, used to refuse resuming on other data."""
    number = 0
    for sample in samples:
        values = sample.values() if isinstance(sample, Mapping) else (sample,)
        for value in values:
            number = crc32(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode(), number)
    return number


class BatchLoader:
    """Yields lists of samples, not padded.

    A loader restored from a ``state_dict`` taken while batch k is being processed continues with batch k + 1.
    """

    def __init__(
        self, dataset: Sequence[Sample], *, batch_size: int, seed: int, shuffle: bool = True, drop_last: bool = False
    ) -> None:
        """Batch ``dataset``; a last partial batch is kept, or dropped every epoch and counted in the ledger."""
        if batch_size < 1:
            raise DataError(f"batch size {batch_size} must be 1 or more")
        if len(dataset) < (batch_size if drop_last else 1):
            raise DataError(
                f"{len(dataset)} rows give no batch of {batch_size}; lower the batch size, add data, or keep the last "
                "partial batch"
            )
        self.batch_size = batch_size
        self.samples = dataset
        self._seed = seed
        self._shuffle = shuffle
        self._num_used = len(dataset) - (len(dataset) % batch_size if drop_last else 0)
        self._epoch = 0
        self._position = 0
        self.epoch_ended = False
        """Whether the latest batch holds the last row of an epoch."""
        self._rows = fingerprint(dataset)
        if drop_last and self.dropped_per_epoch and isinstance(dataset, TokenizedDataset):
            dataset.ledger.add("(every epoch)", LAST_BATCH, count=self.dropped_per_epoch)

    @property
    def batches_per_epoch(self) -> int:
        """Batches per epoch, including a last partial one unless it is dropped."""
        return -(-self._num_used // self.batch_size)

    @property
    def smallest_batch(self) -> int:
        """Rows of the smallest batch of an epoch."""
        return self._num_used % self.batch_size or min(self.batch_size, self._num_used)

    @property
    def dropped_per_epoch(self) -> int:
        """Rows dropped in every epoch because of ``drop_last``."""
        return len(self.samples) - self._num_used

    def describe_batches(self) -> str:
        """Return how many rows a batch has (``3 rows``), with "up to" where the last one of an epoch has fewer."""
        largest = min(self.batch_size, self._num_used)
        return f"{'up to ' if self._num_used % largest else ''}{counted(largest, 'row')}"

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, from 0."""
        return self._epoch

    def iterate(self, epochs: int | None = None) -> Iterator[list[Sample]]:
        """Yield batches from the current position until ``epochs`` (counted from the start) are done, or forever."""
        order, order_epoch = np.empty(0, np.int64), -1
        while epochs is None or self._epoch < epochs:
            if order_epoch != self._epoch:
                order, order_epoch = self._order(self._epoch), self._epoch
            start = self._position * self.batch_size
            self._advance()
            yield [self.samples[index] for index in order[start : start + self.batch_size].tolist()]

    def cycle(self) -> Iterator[list[Sample]]:
        """Yield batches forever, epoch after epoch."""
        return self.iterate(None)

    def preview(self, count: int) -> Iterator[list[Sample]]:
        """Yield the first ``count`` batches from the start of the first epoch; the position stays where it is."""
        ahead = copy.copy(self)
        ahead._epoch = ahead._position = 0
        return islice(ahead.iterate(), count)

    def state_dict(self) -> dict[str, int]:
        """Return the position of the next batch and everything that the order depends on."""
        return {"epoch": self._epoch, "position": self._position, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; refused if data, batch size or seed differ, since the order would change."""
        changed = {
            name: (state.get(name), value) for name, value in self._identity().items() if state.get(name) != value
        }
        if changed:
            rows = ["the rows have changed"] if changed.pop("rows", None) else []
            shown = ", ".join([*(f"{name} was {old} and is {new}" for name, (old, new) in changed.items()), *rows])
            raise CheckpointError(f"the data position of the checkpoint does not match this run: {shown}")
        self._epoch, self._position = int(state["epoch"]), int(state["position"])

    def _identity(self) -> dict[str, int]:
        return {
            "num_rows": len(self.samples),
            "num_used": self._num_used,
            "batch_size": self.batch_size,
            "seed": self._seed,
            "shuffle": int(self._shuffle),
            "rows": self._rows,
        }

    def _advance(self) -> None:
        self._position += 1
        self.epoch_ended = self._position == self.batches_per_epoch
        if self.epoch_ended:
            self._epoch, self._position = self._epoch + 1, 0

    def _order(self, epoch: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(self._num_used)
        return np.random.default_rng([self._seed, epoch]).permutation(len(self.samples))[: self._num_used]


class ContinuousLoader(BatchLoader):
    """A loader whose batches all have the same size: the last rows of an epoch share one with the first of the next.

    Its position is a row, not a batch.
    """

    def iterate(self, epochs: int | None = None) -> Iterator[list[Sample]]:
        """See ``BatchLoader.iterate``; the last batch may hold rows of the epoch after ``epochs``."""
        order, order_epoch = np.empty(0, np.int64), -1
        while epochs is None or self._epoch < epochs:
            batch: list[int] = []
            self.epoch_ended = False
            while len(batch) < self.batch_size:
                if order_epoch != self._epoch:
                    order, order_epoch = self._order(self._epoch), self._epoch
                taken = order[self._position : self._position + self.batch_size - len(batch)].tolist()
                batch += taken
                self._position += len(taken)
                if self._position == self._num_used:
                    self._epoch, self._position, self.epoch_ended = self._epoch + 1, 0, True
            yield [self.samples[index] for index in batch]

    def state_dict(self) -> dict[str, int]:
        """See ``BatchLoader.state_dict``."""
        return {"epoch": self._epoch, "row": self._position, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``BatchLoader.load_state_dict``; also continues from the state of a ``BatchLoader``."""
        super().load_state_dict({"position": 0, **state})
        self._position = int(state["row"]) if "row" in state else int(state["position"]) * self.batch_size
