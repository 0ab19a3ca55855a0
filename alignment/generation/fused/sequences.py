"""A sequence on its way through a continuously batching engine, and the prompt it may share with others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True, eq=False)
class Prefix:
    """All tokens of a prompt but the last one, computed once for the sequences that have the prompt in common.

    The last token stays with each sequence: its row is where the logits of the first new token come from.
    """

    num_tokens: int
    waiting: int = 0
    """Sequences with this prompt that have no slot."""
    users: int = 0
    """Sequences with this prompt that have one."""
    blocks: list[int] = field(default_factory=list)
    """Blocks held for the sequences that wait; empty: nothing is kept."""
    leader: Sequence | None = None
    """The sequence that is computing ``blocks``; None: they are complete, or there are none."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and its answer so far; ``index`` is the order of arrival, the smallest being the oldest."""

    index: int
    sequence_id: int
    prompt: np.ndarray
    """[P] int32"""
    limit: int
    """Tokens the answer may have."""
    prefix: Prefix
    answer: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """The answer while the sequence has no slot (empty, or what it had when it was preempted)."""
    logprobs: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    slot: int = -1
    blocks: list[int] = field(default_factory=list)
    tokens: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    """Prompt and answer as they were when the sequence got its slot."""
    computed: int = 0
    """Tokens of ``tokens`` whose keys and values are in the blocks."""
    awaited: Sequence | None = None
    """The sequence that is still computing the shared prefix."""
    source: int | None = None
    """The shared block whose beginning has to be copied into this sequence's own before anything is written there."""

    @property
    def num_known(self) -> int:
        """Tokens of prompt and answer while the sequence has no slot."""
        return len(self.prompt) + len(self.answer)

    @property
    def can_compute(self) -> bool:
        """False while the shared prefix is incomplete."""
        return self.awaited is None or self.awaited.computed >= self.prefix.num_tokens


def make_sequences(
    prompts: Iterable[np.ndarray], limits: Iterable[int], *, sequence_ids: Iterable[int]
) -> list[Sequence]:
    """Return a sequence for each prompt in order of arrival; equal prompts have their ``Prefix`` in common."""
    prefixes: dict[bytes, Prefix] = {}
    sequences = []
    for index, (prompt, limit, sequence_id) in enumerate(zip(prompts, limits, sequence_ids, strict=True)):
        tokens = np.ascontiguousarray(prompt, np.int32)
        prefix = prefixes.setdefault(tokens.tobytes(), Prefix(len(tokens) - 1))
        prefix.waiting += 1
        sequences.append(Sequence(index, int(sequence_id), tokens, int(limit), prefix))
    return sequences
