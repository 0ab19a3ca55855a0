"""Continuous batching over a fixed number of slots: choose the rows of the next forward pass.

Every decoding sequence contributes one row (its newest token) to a pass; the rest of the pass's budget goes to the
known tokens of sequences that have just got a slot, oldest first. A slot is reused as soon as its sequence ends. If
blocks run out, the youngest sequence gives up its slot, and computes its tokens again later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Several
from typing import NamedTuple

import numpy as np

from alignment.generation.fused.paging import Paging
from alignment.generation.fused.sequences import Sequence
from alignment.generation.fused.slots import Slots
from alignment.records import Completion


class Step(NamedTuple):
    """One forward pass over R rows, with L rows whose logits are needed to draw a token.

    Rows of one slot are adjacent and in order of position.
    """

    tokens: np.ndarray
    """[R] int32"""
    slots: np.ndarray
    """[R] int32"""
    positions: np.ndarray
    """[R] int32"""
    logit_rows: np.ndarray
    """[L] int32, indices of rows."""
    drawn_slots: np.ndarray
    """[L] int32, the slots of ``logit_rows``; may be empty."""
    copies: tuple[tuple[int, int], ...]
    """Blocks (source, target) to copy in this order before the pass."""
    entered: tuple[Sequence, ...]
    """Sequences that got their slots since the last step."""
    ahead: np.ndarray
    """[L] int64, how many drafted tokens of its slot are computed before the row (see ``speculation``)."""


class Scheduler:
    """Schedules sequences: ``plan`` a step, compute it, ``add`` the drawn tokens, until ``done``."""

    def __init__(
        self,
        sequences: Several[Sequence],
        paging: Paging,
        *,
        num_slots: int,
        max_rows: int,
        stops: np.ndarray,
        slots: Slots | None = None,
    ) -> None:
        """``sequences`` are in order of arrival; ``max_rows`` limits a pass with prefill; ``stops`` [V]: stop tokens.

        Each sequence alone must fit in the blocks of ``paging``. ``slots`` hold sequences that arrive later, too; None:
        as many as are needed of ``num_slots``, as long as the longest sequence.
        """
        num_slots = num_slots if slots else min(num_slots, len(sequences))
        self.counts = paging.counts
        self.slots = slots or Slots(
            num_slots,
            max_length=max(len(s.prompt) + s.limit for s in sequences),
            max_answer=max(s.limit for s in sequences),
            block_tokens=paging.block_tokens,
        )
        self._paging = paging
        self._max_rows = max_rows
        self._stops = stops
        self._queue = deque(sequences)
        self._completions: dict[int, Completion] = {}
        self._in_slot: list[Sequence | None] = [None] * num_slots
        self._free_slots = list(range(num_slots - 1, -1, -1))
        self._filling: list[Sequence] = []
        self._decoding = np.empty(0, np.int32)
        self._numbers = np.arange(num_slots, dtype=np.int32)
        self._advances: list[tuple[Sequence, int]] = []
        self._step: Step | None = None

    @property
    def done(self) -> bool:
        """Whether every sequence has finished."""
        return not self._queue and len(self._free_slots) == len(self._in_slot)

    def completions(self) -> list[Completion]:
        """Return the answers of all sequences in order of arrival."""
        return [self._completions[index] for index in sorted(self._completions)]

    def plan(self) -> Step:
        """Return the next pass; call this only until ``done``."""
        self._grow()
        entered = tuple(self._admit())
        step = self._decode_rows(entered)
        if self._filling:
            step = self._fill(step)
        assert len(step.tokens), "a step without rows"
        self.counts.steps += 1
        self.counts.rows += len(step.tokens)
        self._step = step
        return step

    def add(self, tokens: np.ndarray, logprobs: np.ndarray) -> int:
        """Add the ``tokens`` [L] drawn in the last step and their log-probs, and free the slots of finished answers.

        Return the number of tokens added to answers.
        """
        self._decoding = self._append(self._close_step().drawn_slots, tokens, logprobs)
        return len(tokens)

    def _decode_rows(self, entered: tuple[Sequence, ...]) -> Step:
        """Return a step with a row for each decoding slot: its newest token."""
        slots, arrays = self._decoding, self.slots
        rows = self._numbers[: len(slots)]
        ahead = np.zeros(len(slots), np.int64)
        return Step(arrays.tokens[slots], slots, arrays.positions[slots], rows, slots, (), entered, ahead)

    def _close_step(self) -> Step:
        """Record that the known tokens of the last step are computed; return it."""
        step, self._step = self._step, None
        assert step is not None, "plan comes before add"
        for sequence, count in self._advances:
            self._paging.advance(sequence, count)
        self._advances.clear()
        return step

    def _append(self, slots: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray) -> np.ndarray:
        """Append one token to the answer of each of ``slots``; free those that have ended and return the others."""
        full, stopped = self.slots.append(slots, tokens, logprobs), self._stops[tokens]
        ended = full | stopped
        if not ended.any():
            return slots
        for row in np.flatnonzero(ended):
            self._finish(int(slots[row]), stopped=bool(stopped[row]))
        return slots[~ended]

    def _finish(self, slot: int, *, stopped: bool) -> None:
        sequence = self._in_slot[slot]
        self._completions[sequence.index] = self.slots.completion(slot, stopped=stopped)
        self._vacate(sequence, to_wait=False)

    def _vacate(self, sequence: Sequence, *, to_wait: bool) -> None:
        self._paging.leave(sequence, to_wait=to_wait)
        self._in_slot[sequence.slot] = None
        self._free_slots.append(sequence.slot)
        sequence.slot = -1

    def _grow(self) -> None:
        """Give a block to every decoding slot that needs one, oldest sequences first."""
        slots = self._decoding
        short = slots[self.slots.positions[slots] >= self.slots.room[slots]]
        for sequence in sorted((self._in_slot[slot] for slot in short), key=_age):
            while sequence.slot >= 0 and not self._paging.num_free:
                self._make_room()
            if sequence.slot >= 0:
                self.slots.grow(sequence.slot, self._paging.grow(sequence))

    def _make_room(self) -> None:
        """Free at least one block by dropping an unused prefix, or else by preempting the youngest sequence."""
        if self._paging.forget_idle():
            return
        running = [sequence for sequence in self._in_slot if sequence is not None]
        if len(running) == 1:
            self._paging.forget_all()
            assert self._paging.num_free, "a sequence that does not fit in the pool was admitted"
        else:
            self._preempt(max(running, key=_age))

    def _preempt(self, sequence: Sequence) -> None:
        """Return ``sequence`` to the head of the queue, as all others there are younger."""
        slot = sequence.slot
        sequence.answer, sequence.logprobs = self.slots.answer(slot)
        self._decoding = self._decoding[self._decoding != slot]
        if sequence in self._filling:
            self._filling.remove(sequence)
        self._vacate(sequence, to_wait=True)
        self._queue.appendleft(sequence)
        self.counts.preemptions += 1

    def _admit(self) -> list[Sequence]:
        """Give free slots to the oldest waiting sequences, while there are blocks for their known tokens."""
        entered = []
        while self._queue and self._free_slots and self._fits(self._queue[0]):
            sequence = self._queue.popleft()
            sequence.slot = self._free_slots.pop()
            sequence.tokens = sequence.prompt
            if len(sequence.answer):
                sequence.tokens = np.concatenate([sequence.prompt, sequence.answer.astype(np.int32)])
            self._paging.enter(sequence)
            self.slots.enter(sequence)
            self._in_slot[sequence.slot] = sequence
            self._filling.append(sequence)
            entered.append(sequence)
        return entered

    def _fits(self, sequence: Sequence) -> bool:
        """Return whether there are enough blocks for ``sequence`` and one more for each running sequence."""
        num_running = len(self._in_slot) - len(self._free_slots)
        paging, own = self._paging, sequence.prefix
        if paging.needed(sequence) + num_running <= paging.num_free:
            return True
        while paging.forget_idle(but=own) and paging.needed(sequence) + num_running > paging.num_free:
            pass
        if num_running == 0 and paging.needed(sequence) > paging.num_free:
            paging.forget_all()
        return paging.needed(sequence) + num_running <= paging.num_free

    def _fill(self, step: Step) -> Step:
        """Return ``step`` extended by rows of sequences whose known tokens are not computed yet."""
        budget, copies = max(1, self._max_rows - len(step.tokens)), []
        tokens, pieces, logit_rows, drawn = [step.tokens], [], [], []
        num_rows = len(step.tokens)
        for sequence in self._filling:
            if budget == 0:
                break
            if not sequence.can_compute:
                continue
            copies.append(self._paging.start_writing(sequence))
            first = sequence.computed
            piece = sequence.tokens[first : first + budget]
            count = len(piece)
            tokens.append(piece)
            pieces.append((sequence.slot, first, count))
            self._advances.append((sequence, count))
            budget, num_rows = budget - count, num_rows + count
            if first + count == len(sequence.tokens):
                logit_rows.append(num_rows - 1)
                drawn.append(sequence.slot)
        ended = set(drawn)
        self._filling = [sequence for sequence in self._filling if sequence.slot not in ended]
        slots, positions = _spread(pieces)
        return Step(
            np.concatenate(tokens),
            np.concatenate([step.slots, slots]),
            np.concatenate([step.positions, positions]),
            np.append(step.logit_rows, np.array(logit_rows, np.int32)),
            np.append(step.drawn_slots, np.array(drawn, np.int32)),
            tuple(copy for copy in copies if copy is not None),
            step.entered,
            np.append(step.ahead, np.zeros(len(drawn), np.int64)),
        )


def _age(sequence: Sequence) -> int:
    """Return the order of arrival; the youngest sequence has the largest."""
    return sequence.index


def _spread(pieces: Several[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return int32 (slots, positions) of all rows of ``pieces``: (slot, first position, number of rows) each."""
    slots, firsts, counts = np.array(pieces, np.int32).reshape(-1, 3).T
    shifts = firsts - (np.cumsum(counts, dtype=np.int32) - counts)
    return np.repeat(slots, counts), np.arange(counts.sum(), dtype=np.int32) + np.repeat(shifts, counts)
