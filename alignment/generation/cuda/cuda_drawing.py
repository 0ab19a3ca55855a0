"""Draw tokens on the device as ``sampling.py`` specifies; only ids and log-probs are copied to the host."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import paddle

from alignment.errors import NotFiniteError
from alignment.generation.cuda.paddle_device import Packet, PaddleDevice
from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.fused_drawing import sampling_of
from alignment.generation.fused.scheduler import Step
from alignment.generation.fused.sequences import Sequence
from alignment.generation.fused.slots import Slots
from alignment.generation.sampling import check_largest

_DAMAGED, _NOTHING_ALLOWED = 1, 2
_ROW_BYTES = 64
"""Bytes in a packet per row, alignment included."""


class CudaDrawer:
    """The ``SlotDrawer`` of one call of ``generate``; random numbers by (seed, sequence id, position in the answer)."""

    def __init__(
        self,
        device: PaddleDevice,
        options: GenerationOptions,
        *,
        seed: int,
        vocab_size: int,
        usable_vocab_size: int | None = None,
        num_slots: int,
    ) -> None:
        """Ids of ``usable_vocab_size`` and above are never drawn."""
        self._device, self._seed, self._vocab = device, seed & 0xFFFFFFFFFFFFFFFF, vocab_size
        sampling = sampling_of(options, vocab_size, usable_vocab_size)
        self._sampling = sampling.pack()
        self._stops = device.put(np.array(sampling.stop_token_ids, np.int32))
        self._num_stops = len(sampling.stop_token_ids)
        self._min_new_tokens = options.min_new_tokens if self._num_stops else 0
        penalised = options.repetition_penalty != 1.0
        self._seen = device.empty([num_slots, vocab_size], "uint8") if penalised else None
        self._inputs, self._results = (Packet(device, (num_slots + 8) * _ROW_BYTES) for _ in range(2))
        workspace = device.library.handle.acu_sample_bytes(num_slots, vocab_size)
        self._workspace = device.empty([workspace + 8 * num_slots], "uint8")
        """The sampler's workspace, then the uniform numbers."""
        self._uniforms = self._workspace.data_ptr() + workspace

    def enter(self, sequences: Iterable[Sequence]) -> None:
        """See ``SlotDrawer.enter``."""
        if self._seen is None:
            return
        for sequence in sequences:
            marks = np.zeros(self._vocab, np.uint8)
            marks[sequence.tokens] = 1
            self._device.write(self._seen_row(sequence.slot), marks)

    def draw(self, logits: paddle.Tensor, step: Step, slots: Slots) -> tuple[np.ndarray, np.ndarray]:
        """See ``SlotDrawer.draw``; raises NotFiniteError for logits without a finite maximum."""
        drawn = step.drawn_slots
        places = slots.answered[drawn]
        tokens, logprobs, outcomes = self._draw(logits, drawn, slots.sequence_ids[drawn], places)
        if outcomes.any():
            damaged = outcomes == _DAMAGED
            check_largest(np.where(damaged, np.nan, 0), int(places[damaged][0]) if damaged.any() else 0)
            raise NotFiniteError(f"{int(outcomes.astype(bool).sum())} of {len(drawn)} rows allow no token at all")
        return tokens, logprobs

    def _draw(
        self, logits: paddle.Tensor, drawn: np.ndarray, ids: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Return (tokens int64, log-probs float32, outcomes int32), [L] each."""
        rows = len(drawn)
        forbids, penalises = self._min_new_tokens > 0, self._seen is not None
        self._inputs.begin()
        sequence_ids = self._give(ids, np.uint64)
        draws = self._give(places & 0xFFFFFFFF, np.uint32)
        forbidden = self._give(places < self._min_new_tokens, np.uint8) if forbids else None
        seen = self._give([self._seen_row(slot) for slot in drawn], np.uint64) if penalises else None
        self._inputs.send()
        self._results.begin()
        results = [self._results.add((rows,), kind) for kind in (np.int64, np.float32, np.int32)]
        arrays, addresses = zip(*results, strict=True)
        device = self._device
        device.call("acu_philox_uniform", self._seed, rows, sequence_ids, draws, self._uniforms)
        device.call(
            *("acu_sample", rows, self._vocab, logits.data_ptr(), self._uniforms, self._sampling),
            *(self._stops.data_ptr(), self._num_stops, forbidden, seen, *addresses, self._workspace.data_ptr()),
        )
        if penalises:
            # It also prepares inputs of the next step, which come from the host here, so they are discarded.
            unused = self._workspace.data_ptr()
            device.call("acu_advance", rows, addresses[0], unused, unused + 4 * rows, draws, seen)
        self._results.fetch()
        return tuple(array.copy() for array in arrays)

    def _give(self, values: np.ndarray | list[int], dtype: type) -> int:
        """Return the device address of ``values`` after the inputs are sent."""
        array, address = self._inputs.add((len(values),), dtype)
        array[:] = values
        return address

    def _seen_row(self, slot: int) -> int:
        return self._seen.data_ptr() + int(slot) * self._vocab
