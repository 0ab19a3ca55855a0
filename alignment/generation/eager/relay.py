"""Run pieces of work forward through the stages of a pipeline.

Time is divided into slots. In every slot each stage works on a different piece and passes its result to the next stage;
a piece that leaves the last stage is finished by all processes. With P stages that are each passed C times (interleaved
stages), piece k enters in slot ``(k // P) * C * P + k % P`` and advances one stage per slot, so no stage is needed
twice in a slot. Every process goes through the same slots in the same order, so blocking messages cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import paddle

from alignment.parallel.comms.group import Group


class Piece(NamedTuple):
    """Some rows to compute; every stage creates an equal one."""

    num_rows: int
    """M, the rows of the hidden state [M, H] between stages."""
    run: Callable[[int, paddle.Tensor | None], paddle.Tensor]
    """(number of the pass over this stage, hidden state or None at the entry) -> hidden state, or the final result."""
    finish: Callable[[paddle.Tensor | None], None]
    """Called on all stages with the result, which only the last one has (others: None)."""


class Relay:
    """The stages of ``group``, each passed ``num_passes`` times; a single stage runs piece by piece."""

    def __init__(self, group: Group, *, num_passes: int, width: int, dtype: Any) -> None:
        """``width`` and ``dtype`` describe the hidden state."""
        assert group.size > 1 or num_passes == 1, "one stage is passed once"
        self._group, self._num_passes = group, num_passes
        self._width, self._dtype = width, dtype

    def run(self, pieces: Iterator[Piece | None]) -> None:
        """Run all ``pieces``; None leaves a turn empty.

        Each is requested when it enters, after the piece P before it was finished (P stages).
        """
        size, here = self._group.size, self._group.index
        active: dict[int, Piece] = {}
        arrived, slot, entered = None, 0, 0
        ended = False
        while active or not ended:
            if not ended and slot % (size * self._num_passes) < size:
                piece = next(pieces, _END)
                ended = piece is _END
                if isinstance(piece, Piece):
                    active[entered] = piece
                entered += 1
            number, turn = self._at(slot, here)
            output = active[number].run(turn, arrived) if number in active else None
            arrived = self._pass_on(output, slot, active)
            number, turn = self._at(slot, size - 1)
            if number in active and turn == self._num_passes - 1:
                active.pop(number).finish(output if self._group.is_last else None)
            slot += 1

    def _at(self, slot: int, stage: int) -> tuple[int, int]:
        """Return (piece that ``stage`` works on in ``slot``, number of the pass); the piece may not exist."""
        size = self._group.size
        rounds, index = divmod(slot - stage, size)
        return rounds // self._num_passes * size + index, rounds % self._num_passes

    def _pass_on(self, output: paddle.Tensor | None, slot: int, active: dict[int, Piece]) -> paddle.Tensor | None:
        """Send this stage's ``output`` to the next one and return what the previous one sends."""
        size, here = self._group.size, self._group.index
        if size == 1:
            return None
        arrived, before = None, (here - 1) % size
        # Odd stages receive first, so that every send has a receiver.
        for receives in (here % 2 == 1, here % 2 == 0):
            number, turn = self._at(slot, before if receives else here)
            if number not in active or self._leaves(before if receives else here, turn):
                continue
            if receives:
                shape = [active[number].num_rows, self._width]
                arrived = self._group.receive(shape, self._dtype, before, "hidden states")
            else:
                self._group.send(output, (here + 1) % size, "hidden states")
        return arrived

    def _leaves(self, stage: int, turn: int) -> bool:
        return stage == self._group.size - 1 and turn == self._num_passes - 1


_END = object()
