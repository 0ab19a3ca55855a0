"""The state of all slots as arrays, so that a decode step needs no Python work per slot."""

from __future__ import annotations

import numpy as np

from alignment.generation.fused.blocks import blocks_for
from alignment.generation.fused.sequences import Sequence
from alignment.records import Completion


class Slots:
    """S slots for sequences of at most ``max_length`` tokens with answers of at most ``max_answer`` (W) tokens."""

    def __init__(self, num_slots: int, *, max_length: int, max_answer: int, block_tokens: int) -> None:
        self.tokens = np.zeros(num_slots, np.int32)
        """[S], the token to compute next."""
        self.positions = np.zeros(num_slots, np.int32)
        """[S], the position of that token."""
        self.room = np.zeros(num_slots, np.int32)
        """[S], the number of positions that have blocks."""
        self.answered = np.zeros(num_slots, np.int64)
        """[S], the length of the answer so far."""
        self.limits = np.zeros(num_slots, np.int64)
        """[S], the most tokens that the answer may have."""
        self.sequence_ids = np.zeros(num_slots, np.uint64)
        self.block_tables = np.zeros((num_slots, blocks_for(max_length, block_tokens)), np.int32)
        """[S, blocks of the longest sequence]; entries beyond ``room`` are undefined."""
        self._answers = np.zeros((num_slots, max_answer), np.int64)
        self._logprobs = np.zeros((num_slots, max_answer), np.float32)
        self._block_tokens = block_tokens

    def enter(self, sequence: Sequence) -> None:
        """Initialise the slot of ``sequence``, which must have its blocks and known tokens."""
        slot, done, known = sequence.slot, len(sequence.answer), len(sequence.tokens)
        if done:
            self._answers[slot, :done] = sequence.answer
            self._logprobs[slot, :done] = sequence.logprobs
        self.answered[slot] = done
        self.limits[slot] = sequence.limit
        self.sequence_ids[slot] = sequence.sequence_id & 0xFFFFFFFFFFFFFFFF
        self.tokens[slot], self.positions[slot] = sequence.tokens[-1], known - 1
        self.block_tables[slot, : len(sequence.blocks)] = sequence.blocks
        self.room[slot] = len(sequence.blocks) * self._block_tokens

    def grow(self, slot: int, block: int) -> None:
        """Append ``block`` to the blocks of ``slot``."""
        self.block_tables[slot, self.room[slot] // self._block_tokens] = block
        self.room[slot] += self._block_tokens

    def append(self, slots: np.ndarray, tokens: np.ndarray, logprobs: np.ndarray) -> np.ndarray:
        """Append ``tokens`` [L] to the answers of ``slots`` [L]; return [L] bool, True for answers that are full."""
        lengths = self.answered[slots]
        self._answers[slots, lengths] = tokens
        self._logprobs[slots, lengths] = logprobs
        self.tokens[slots] = tokens
        self.positions[slots] += 1
        lengths += 1
        self.answered[slots] = lengths
        return lengths >= self.limits[slots]

    def answer(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of (tokens int64, log-probs float32) of the answer in ``slot``."""
        end = self.answered[slot]
        return self._answers[slot, :end].copy(), self._logprobs[slot, :end].copy()

    def completion(self, slot: int, *, stopped: bool) -> Completion:
        """Return the answer in ``slot``; ``stopped``: whether its last token is a stop token."""
        return Completion(*self.answer(slot), "stop" if stopped else "length")
