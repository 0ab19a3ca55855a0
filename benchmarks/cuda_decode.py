"""Decode steps of csrc/cuda that need nothing from the host: forward, uniform numbers, draw, next inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from cuda_library import CudaModel
from cuda_sampler import CudaSampler


class DecodeLoop:
    """B sequences, one in each slot, that decode in step; every array stays in the library's memory."""

    def __init__(self, model: CudaModel, block_tables: np.ndarray, *, options: dict[str, Any], seed: int) -> None:
        """``block_tables`` [B, blocks] must hold every position that will be reached."""
        self._model, self._library, self._seed = model, model.library, seed
        rows = len(block_tables)
        self._tables = np.asarray(block_tables, np.int32)
        self._batch = model.batch(np.zeros(rows), np.arange(rows), np.zeros(rows), self._tables, np.arange(rows))
        self.sampler = CudaSampler(model.library, rows, model.config.vocab, options)
        put = model.library.memory.put
        self._ids, self._uniforms = put(np.arange(rows, dtype=np.uint64)), put(np.zeros(rows))
        self._draws = put(np.zeros(rows, np.uint32))

    def prefill(self, prompts: list[np.ndarray], *, chunk: int) -> None:
        """Compute all but the last token of each prompt and make those the inputs of the first step."""
        for slot, tokens in enumerate(prompts):
            for begin in range(0, len(tokens) - 1, chunk):
                part = tokens[begin : min(begin + chunk, len(tokens) - 1)]
                places = np.arange(begin, begin + len(part))
                rows = self._model.batch(part, np.full(len(part), slot), places, self._tables, [])
                self._model.forward(rows, decode_rows=0, longest=int(places[-1]) + 1)
        self.begin([tokens[-1] for tokens in prompts], [len(tokens) - 1 for tokens in prompts])

    def begin(self, tokens: Any, positions: Any) -> None:
        """Set the inputs of the next step, in place."""
        for array, values in zip(self._batch[:3:2], (tokens, positions), strict=True):
            array[:] = self._library.memory.put(np.asarray(values, np.int32))
        self._draws[:] = self._library.memory.put(np.zeros(len(self._tables), np.int32))

    def step(self, *, longest: int) -> None:
        """Put one decode step of every sequence on the stream; no position may reach ``longest``."""
        batch, address, rows = self._batch, self._library.memory.address, len(self._tables)
        self._model.forward(batch, decode_rows=rows, longest=longest)
        numbers = map(address, (self._ids, self._draws, self._uniforms))
        self._library.call("acu_philox_uniform", self._seed, rows, *numbers)
        self.sampler.start(batch.logits, self._uniforms)
        inputs = map(address, (self.sampler.tokens, batch.tokens, batch.positions, self._draws))
        self._library.call("acu_advance", rows, *inputs, None)

    def tokens(self, steps: int, *, longest: int) -> np.ndarray:
        """Return what ``steps`` steps draw [steps, B], reading each on the host."""
        drawn = []
        for _ in range(steps):
            self.step(longest=longest)
            result = self.sampler.result()
            assert (result.outcomes == 0).all(), "a row has no token"
            drawn.append(np.array(result.tokens))
        return np.stack(drawn)
