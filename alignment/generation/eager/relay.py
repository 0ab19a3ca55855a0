"""Pieces of work on their way through the stages of a pipeline, forward only.

Time goes in slots. In every slot each stage works on another piece; then each hands its result to the next stage, and
the piece that left the last stage is finished by all. With P stages that are passed C times each (interleaved stages),
piece k enters in slot ``(k // P) * C * P + k % P`` and moves one stage a slot, so no stage is wanted twice in a slot.
Every process lives through the same slots in the same order, hence messages that block until they are taken cannot
wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import paddle

from alignment.parallel.comms.group import Group


class Piece(NamedTuple):
    """Some rows to be computed; every stage makes the same one."""

    num_rows: int
    """M rows of the hidden state [M, H] between stages."""
    run: Callable[[int, paddle.Tensor | None], paddle.Tensor]
    """(which pass over this stage, hidden or None at the entry) -> hidden, or what the last stage makes of it."""
    finish: Callable[[paddle.Tensor | None], None]
    """Called by all stages with the result, which only the last one has."""


class Relay:
    """The stages of ``group``, each passed ``num_passes`` times; a single stage simply works piece by piece."""

    def __init__(self, group: Group, *, num_passes: int, width: int, dtype: Any) -> None:
        """``width`` and ``dtype`` are those of the hidden state."""
        assert group.size > 1 or num_passes == 1, "one stage is passed once"
        self._group, self._num_passes = group, num_passes
        self._width, self._dtype = width, dtype

    def run(self, pieces: Iterator[Piece | None]) -> None:
        """Run ``pieces`` to their end; None stays out for its turn.

        Each is asked for when it enters, after the piece P places before it (P stages) was finished.
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
        """Return (number of the piece that ``stage`` works on in ``slot``, which pass it is); numbers may not exist."""
        size = self._group.size
        rounds, index = divmod(slot - stage, size)
        return rounds // self._num_passes * size + index, rounds % self._num_passes

    def _pass_on(self, output: paddle.Tensor | None, slot: int, active: dict[int, Piece]) -> paddle.Tensor | None:
        """Hand this stage's ``output`` to the next one and return what the one before hands over."""
        size, here = self._group.size, self._group.index
        if size == 1:
            return None
        arrived, before = None, (here - 1) % size
        # Odd stages listen first, so that somebody always does.
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
