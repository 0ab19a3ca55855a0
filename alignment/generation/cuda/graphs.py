"""Decode steps as CUDA graphs: captured at the second step of a size, then started by one call each."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from alignment.generation.cuda.paddle_device import PaddleDevice

_FINE, _ROWS = 16, 16
"""Sizes are powers of two up to the first number, then multiples of the second."""
_POSITIONS = 256
"""Attention is launched for a power of two of so many positions: what one thread block of it covers."""


class RowArrays(NamedTuple):
    """The arguments of one forward pass; the arrays are on the device."""

    num_rows: int
    num_logits: int
    num_decoding: int
    """Rows, the first ones, whose attention is split over the device."""
    max_blocks: int
    addresses: tuple[int, ...]
    """Of tokens, slots, positions, block tables and rows with logits."""
    logits: int
    """Address of the logits."""
    longest: int
    """All positions are below it."""
    repeats: bool
    """Other steps will have the same sizes."""

    def arguments(self, longest: int) -> tuple[int, ...]:
        """Return what ``acu_forward`` takes between the model and the stream; all positions are below ``longest``."""
        *rows, logit_rows = self.addresses
        return (
            *(self.num_rows, *rows, self.max_blocks, self.num_logits, logit_rows, self.logits),
            *(self.num_decoding, longest),
        )


def padded_rows(count: int) -> int:
    """Return the next size from ``count`` on: 1, 2, 4, 8, 16, 32, 48, ..."""
    return 1 << (count - 1).bit_length() if count <= _FINE else -(-count // _ROWS) * _ROWS


def padded_positions(longest: int, most: int) -> int:
    """Return a number of positions from ``longest`` on that few others share; ``most`` at most."""
    return min(most, _POSITIONS << (-(-longest // _POSITIONS) - 1).bit_length())


class ForwardGraphs:
    """Runs the forward passes of one model, those that repeat as graphs."""

    def __init__(self, device: PaddleDevice, model: int, max_length: int) -> None:
        self._device, self._model, self._max_length = device, model, max_length
        self._graphs: dict[tuple[int, ...], int | None] = {}
        """By the arguments that a graph was captured with; None: these have run once."""

    def __del__(self) -> None:
        """Free the graphs."""
        for graph in self._graphs.values():
            if graph:
                self._device.library.handle.acu_graph_destroy(graph)

    @property
    def num_captured(self) -> int:
        """Graphs that were captured."""
        return sum(graph is not None for graph in self._graphs.values())

    def run(self, rows: RowArrays) -> None:
        """Put one forward pass on the stream."""
        if not rows.repeats:
            self._device.call("acu_forward", self._model, *rows.arguments(rows.longest))
            return
        arguments = rows.arguments(padded_positions(rows.longest, self._max_length))
        if arguments not in self._graphs:
            # What is loaded or chosen at a first call must not be captured.
            self._device.call("acu_forward", self._model, *arguments)
            self._graphs[arguments] = None
            return
        graph = self._graphs[arguments] or self._capture(arguments)
        self._device.call("acu_graph_launch", graph)

    def _capture(self, arguments: tuple[int, ...]) -> int:
        library, stream = self._device.library, ctypes.c_void_p()
        graph = library.handle.acu_graph_begin(ctypes.byref(stream))
        if not graph:
            library.check(-1)
        self._graphs[arguments] = graph
        library.call("acu_forward", self._model, *arguments, stream)
        library.call("acu_graph_end", graph)
        return graph
