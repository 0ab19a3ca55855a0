"""The sampler of csrc/cuda through ctypes."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np
from cuda_library import CudaLibrary

from alignment.ops.native.bindings import AcSampling


class Drawn(NamedTuple):
    """One token for each row."""

    tokens: np.ndarray
    logprobs: np.ndarray
    outcomes: np.ndarray
    """0 drawn, 1 logits not finite, 2 no token allowed."""


class CudaSampler:
    """Draws tokens with fixed options from logits [rows, V] in the library's memory."""

    def __init__(self, library: CudaLibrary, rows: int, vocab: int, options: dict[str, Any]) -> None:
        """``options``: the fields of AcSampling, and perhaps ``stops``: token ids that rows may be forbidden."""
        options = dict(options)
        stops = options.pop("stops", ())
        defaults = dict(do_sample=1, top_k=0, usable_vocab=vocab, temperature=1.0, repetition_penalty=1.0, top_p=1.0)
        self._library, self._rows, self._vocab = library, rows, vocab
        self._sampling = AcSampling(struct_bytes=ctypes.sizeof(AcSampling), **(defaults | options))
        put = library.memory.put
        self._stops, self._num_stops = put(np.array([*stops, 0], np.int32)), len(stops)
        num_bytes = library.handle.acu_sample_bytes(rows, vocab)
        self._workspace = put(np.zeros(num_bytes, np.uint8))
        self.tokens, self.logprobs = put(np.zeros(rows, np.int64)), put(np.zeros(rows, np.float32))
        self.outcomes = put(np.full(rows, -1, np.int32))

    def start(self, logits: Any, uniforms: Any, *, forbid_stops: Any = None, seen: Any = None) -> None:
        """Put a draw on the stream; ``seen``: addresses [rows] of V bytes each, in the library's memory."""
        address = self._library.memory.address
        given = [None if x is None else address(x) for x in (logits, uniforms, self._stops, forbid_stops, seen)]
        results = map(address, (self.tokens, self.logprobs, self.outcomes, self._workspace))
        self._library.call(
            *("acu_sample", self._rows, self._vocab, *given[:2], self._sampling, given[2], self._num_stops),
            *(*given[3:], *results),
        )

    def result(self) -> Drawn:
        """Return what was drawn."""
        return Drawn(*map(self._library.memory.get, (self.tokens, self.logprobs, self.outcomes)))


def seen_rows(library: CudaLibrary, marks: np.ndarray) -> tuple[Any, Any]:
    """Return (addresses [rows], bytes [rows, V]) in the library's memory; the bytes must be kept."""
    data = library.memory.put(marks.astype(np.uint8))
    first = library.memory.address(data)
    addresses = np.array([first + row * marks.shape[1] for row in range(len(marks))], np.uint64)
    return library.memory.put(addresses), data


def philox(library: CudaLibrary, seed: int, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the library's uniform numbers."""
    memory = library.memory
    out = memory.put(np.zeros(len(ids), np.float64))
    arrays = memory.put(ids.astype(np.uint64)), memory.put(positions.astype(np.uint32)), out
    library.call("acu_philox_uniform", seed, len(ids), *map(memory.address, arrays))
    return memory.get(out)
