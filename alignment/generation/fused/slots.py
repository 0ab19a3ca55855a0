"""What a decode step needs of every slot, as arrays, so that a step costs no Python work per slot."""

from __future__ import annotations

import numpy as np

from alignment.generation.fused.blocks import blocks_for
from alignment.generation.fused.sequences import Sequence
from alignment.records import Completion


class Slots:
    """S slots for sequences of at most ``max_length`` tokens with answers of at most ``max_answer`` (W) tokens."""

    def __init__(self, num_slots: int, *, max_length: int, max_answer: int, block_tokens: int) -> None:
        self.tokens = np.zeros(num_slots, np.int32)
        """[S], the token that is computed next."""
        self.positions = np.zeros(num_slots, np.int32)
        """[S], where it stands."""
        self.room = np.zeros(num_slots, np.int32)
        """[S], positions for which there are blocks."""
        self.answered = np.zeros(num_slots, np.int64)
        """[S], tokens of the answer so far."""
        self.limits = np.zeros(num_slots, np.int64)
        """[S], tokens the answer may have."""
        self.sequence_ids = np.zeros(num_slots, np.uint64)
        self.block_tables = np.zeros((num_slots, blocks_for(max_length, block_tokens)), np.int32)
        """[S, blocks of the longest sequence]; entries beyond ``room`` mean nothing."""
        self._answers = np.zeros((num_slots, max_answer), np.int64)
        self._logprobs = np.zeros((num_slots, max_answer), np.float32)
        self._block_tokens = block_tokens

    def enter(self, sequence: Sequence) -> None:
        """Set the slot of ``sequence``, which has its blocks and its known tokens."""
        slot, done, known = sequence.slot, len(sequence.answer), len(sequence.tokens)
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
        """Append ``tokens`` [L] to the answers of ``slots`` [L]; return which answers are full, [L] True: full."""
        places = self.answered[slots]
        self._answers[slots, places] = tokens
        self._logprobs[slots, places] = logprobs
        self.tokens[slots] = tokens
        self.positions[slots] += 1
        places += 1
        self.answered[slots] = places
        return places >= self.limits[slots]

    def answer(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of (tokens int64, log-probs float32) of the answer in ``slot``."""
        end = self.answered[slot]
        return self._answers[slot, :end].copy(), self._logprobs[slot, :end].copy()

    def completion(self, slot: int, *, stopped: bool) -> Completion:
        """Return the answer in ``slot``; ``stopped``: its last token is a stop token."""
        return Completion(*self.answer(slot), "stop" if stopped else "length")
