"""Run decode steps as CUDA graphs, captured at the second step of each size."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from alignment.generation.cuda.paddle_device import PaddleDevice
from alignment.generation.fused.fused_settings import POSITIONS_OF_SPLIT

_FINE, _ROWS = 16, 16
"""Sizes are powers of two up to the first number, then multiples of the second."""


class RowArrays(NamedTuple):
    """The arguments of one forward pass; the arrays are on the device."""

    num_rows: int
    num_logits: int
    num_decoding: int
    """Number of leading rows whose attention is split over the device."""
    max_blocks: int
    addresses: tuple[int, ...]
    """The addresses of tokens, slots, positions, block tables and rows with logits."""
    logits: int
    """The address of the logits."""
    longest: int
    """All positions are below this."""
    repeats: bool
    """Whether other steps will have the same sizes."""

    def arguments(self, longest: int) -> tuple[int, ...]:
        """Return the arguments of ``acu_forward`` between model and stream; all positions are below ``longest``."""
        *rows, logit_rows = self.addresses
        return (
            *(self.num_rows, *rows, self.max_blocks, self.num_logits, logit_rows, self.logits),
            *(self.num_decoding, longest),
        )


def padded_rows(count: int) -> int:
    """Return the smallest size of at least ``count``: 1, 2, 4, 8, 16, 32, 48, ..."""
    return 1 << (count - 1).bit_length() if count <= _FINE else -(-count // _ROWS) * _ROWS


def padded_positions(longest: int, most: int) -> int:
    """Return ``longest`` rounded up so that few sizes occur, at most ``most``."""
    return min(most, POSITIONS_OF_SPLIT << (-(-longest // POSITIONS_OF_SPLIT) - 1).bit_length())


class ForwardGraphs:
    """Runs the forward passes of one model, using graphs for those that repeat."""

    def __init__(self, device: PaddleDevice, model: int, max_length: int) -> None:
        self._device, self._model, self._max_length = device, model, max_length
        self._graphs: dict[tuple[int, ...], int | None] = {}
        """Graphs by the arguments they were captured with; None: run once, not captured."""

    def __del__(self) -> None:
        """Free the graphs."""
        for graph in self._graphs.values():
            if graph:
                self._device.library.handle.acu_graph_destroy(graph)

    @property
    def num_captured(self) -> int:
        """Number of captured graphs."""
        return sum(graph is not None for graph in self._graphs.values())

    def run(self, rows: RowArrays) -> None:
        """Enqueue one forward pass on the stream."""
        if not rows.repeats:
            self._device.call("acu_forward", self._model, *rows.arguments(rows.longest))
            return
        arguments = rows.arguments(padded_positions(rows.longest, self._max_length))
        if arguments not in self._graphs:
            # The first call may load modules or choose algorithms, which must not be captured.
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
        try:
            library.call("acu_forward", self._model, *arguments, stream)
            library.call("acu_graph_end", graph)
        except BaseException:
            # A capture that is not ended would take in all later work; without a graph the next step starts over.
            library.handle.acu_graph_end(graph)
            library.handle.acu_graph_destroy(graph)
            raise
        self._graphs[arguments] = graph
        return graph
