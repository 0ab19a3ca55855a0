"""The order of work and messages in a pipeline, with threads whose messages wait until they are taken."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.generation.eager.relay import Piece, Relay
from alignment.parallel.comms.group import ALONE

_PATIENCE = 20


class _Line:
    """Stage ``index`` of ``size``; a send returns when the other side has taken the message."""

    def __init__(self, index, size, boxes):
        self.index, self.size, self._boxes = index, size, boxes

    @property
    def is_last(self):
        return self.index == self.size - 1

    def send(self, tensor, target, what=""):
        box = self._boxes[self.index, target]
        box["content"] = tensor.numpy()
        box["full"].release()
        assert box["taken"].acquire(timeout=_PATIENCE), f"{self.index} waits for {target} to take"

    def receive(self, shape, dtype, source, what=""):
        box = self._boxes[source, self.index]
        assert box["full"].acquire(timeout=_PATIENCE), f"{self.index} waits for {source} to send"
        content = box["content"]
        box["taken"].release()
        assert list(content.shape) == list(shape)
        return paddle.to_tensor(content)


def _lines(size):
    def box():
        return {"full": threading.Semaphore(0), "taken": threading.Semaphore(0)}

    boxes = {(a, b): box() for a in range(size) for b in range(size)}
    return [_Line(index, size, boxes) for index in range(size)]


def _walk(line, passes, sizes):
    """Run pieces of ``sizes`` rows (0: none) and return (results on the last stage, order of all events here)."""
    results, log = {}, []

    def piece(number, num_rows):
        def run(turn, hidden):
            log.append(("run", number, turn))
            assert (hidden is None) == (line.index == 0 and turn == 0)
            start = paddle.full([num_rows, 2], number, "float64") if hidden is None else hidden
            # Each stage writes its digit, so the result tells the way.
            return start * 10 + (turn * line.size + line.index + 1)

        def finish(output):
            log.append(("finish", number))
            results[number] = output if output is None else output.numpy()

        return Piece(num_rows, run, finish)

    def pieces():
        for number, num_rows in enumerate(sizes):
            log.append(("enter", number))
            yield piece(number, num_rows) if num_rows else None

    Relay(line, num_passes=passes, width=2, dtype="float64").run(pieces())
    return results, log


def _way(number, stages):
    value = number
    for stage in range(stages):
        value = value * 10 + stage + 1
    return value


@settings(max_examples=40)
@given(st.integers(2, 4), st.integers(1, 2), st.lists(st.integers(0, 3), max_size=9))
def test_every_piece_passes_every_stage_in_order(size, passes, sizes):
    with ThreadPoolExecutor(size) as pool:
        outcomes = list(pool.map(lambda line: _walk(line, passes, sizes), _lines(size)))
    wanted = [number for number, num_rows in enumerate(sizes) if num_rows]
    for index, (results, log) in enumerate(outcomes):
        assert [event[1] for event in log if event[0] == "finish"] == wanted
        for number in wanted:
            # A piece enters after the one that had its place before was finished, everywhere.
            before = number - size
            if before in wanted:
                assert log.index(("finish", before)) < log.index(("enter", number))
            if index == size - 1:
                np.testing.assert_array_equal(results[number], np.full([sizes[number], 2], _way(number, size * passes)))
            else:
                assert results[number] is None


def test_stages_work_on_different_pieces_at_the_same_time():
    at_work = [threading.Barrier(3, timeout=_PATIENCE) for _ in range(4)]

    def walk(line):
        def piece(number):
            def run(turn, hidden):
                # In slot 2, 3, ... all three stages are at work, on pieces slot, slot - 1 and slot - 2.
                slot = number + line.index
                if 2 <= slot <= 5:
                    at_work[slot - 2].wait()
                return paddle.zeros([1, 2])

            return Piece(1, run, lambda output: None)

        Relay(line, num_passes=1, width=2, dtype="float32").run(piece(number) for number in range(6))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(walk, _lines(3)))


def test_one_stage_works_piece_by_piece():
    results, log = _walk(ALONE, 1, [2, 0, 1])
    assert [event[:2] for event in log] == [
        ("enter", 0), ("run", 0), ("finish", 0), ("enter", 1), ("enter", 2), ("run", 2), ("finish", 2)
    ]  # fmt: skip
    np.testing.assert_array_equal(results[2], [[21, 21]])


def test_one_stage_is_passed_once():
    with pytest.raises(AssertionError, match="once"):
        Relay(ALONE, num_passes=2, width=2, dtype="float32")
