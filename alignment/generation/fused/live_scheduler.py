"""A scheduler whose sequences arrive, and may leave, while others run."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from alignment.generation.fused.paging import Paging
from alignment.generation.fused.scheduler import Scheduler
from alignment.generation.fused.sequences import Sequence
from alignment.generation.fused.slots import Slots
from alignment.records import Completion


class LiveScheduler(Scheduler):
    """See ``Scheduler``; between two steps sequences can be added and removed."""

    def __init__(self, paging: Paging, *, num_slots: int, max_rows: int, max_length: int, stops: np.ndarray) -> None:
        """``max_length`` limits prompt and answer together."""
        slots = Slots(num_slots, max_length=max_length, max_answer=max_length, block_tokens=paging.block_tokens)
        super().__init__((), paging, num_slots=num_slots, max_rows=max_rows, stops=stops, slots=slots)

    @property
    def num_waiting(self) -> int:
        """Number of sequences without a slot."""
        return len(self._queue)

    def submit(self, sequences: Iterable[Sequence]) -> None:
        """Add ``sequences``, which arrived after all others and have larger indices."""
        self._queue.extend(sequences)

    def owners(self, slots: np.ndarray) -> list[Sequence]:
        """Return the sequences in ``slots``."""
        return [self._in_slot[slot] for slot in slots]

    def take(self, sequence: Sequence) -> Completion | None:
        """Return the answer of ``sequence`` if it has finished since the last call, and forget it."""
        return self._completions.pop(sequence.index, None)

    def remove(self, sequence: Sequence) -> None:
        """Remove ``sequence``. One that others wait for (the first with its prompt) is removed after these."""
        if sequence.slot < 0:
            self._queue.remove(sequence)
            self._paging.give_up(sequence)
            return
        self._decoding = self._decoding[self._decoding != sequence.slot]
        if sequence in self._filling:
            self._filling.remove(sequence)
        self._vacate(sequence, to_wait=False)
