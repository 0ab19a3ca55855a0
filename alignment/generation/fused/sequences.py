"""Sequences of an engine with continuous batching, and the prompts that they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from alignment.generation.live import Ask


@dataclass(slots=True, eq=False)
class Prefix:
    """All tokens of a prompt but the last, computed once for all sequences with the same prompt.

    The last token is computed by each sequence, because its row gives the logits of the first new token.
    """

    num_tokens: int
    waiting: int = 0
    """Number of sequences with this prompt that have no slot."""
    users: int = 0
    """Number of sequences with this prompt that have a slot."""
    blocks: list[int] = field(default_factory=list)
    """Blocks kept for waiting sequences; empty if nothing is kept."""
    leader: Sequence | None = None
    """The sequence that is computing ``blocks``; None if they are complete or there are none."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and its answer so far; ``index`` is the order of arrival."""

    index: int
    sequence_id: int
    prompt: np.ndarray
    """[P] int32"""
    limit: int
    """The most tokens that the answer may have."""
    prefix: Prefix
    answer: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """The answer while the sequence has no slot: empty, or as it was when preempted."""
    logprobs: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    slot: int = -1
    blocks: list[int] = field(default_factory=list)
    tokens: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    """Prompt and answer when the sequence got its slot."""
    computed: int = 0
    """Number of ``tokens`` whose keys and values are in the blocks."""
    awaited: Sequence | None = None
    """The sequence that is still computing the shared prefix."""
    source: int | None = None
    """The shared block that must be copied into this sequence's own block before it is written."""
    drafted: int = 0
    """Number of tokens of the answer that were drafted, right or wrong (speculative decoding)."""
    accepted: int = 0
    """Number of those that were right."""
    ask: Ask | None = None
    """The request that wants this answer, of an engine that takes requests while it runs."""
    choice: int = 0
    """Which of the answers of ``ask`` this is."""

    @property
    def num_known(self) -> int:
        """Number of tokens of prompt and answer while the sequence has no slot."""
        return len(self.prompt) + len(self.answer)

    @property
    def can_compute(self) -> bool:
        """Whether the shared prefix is complete."""
        return self.awaited is None or self.awaited.computed >= self.prefix.num_tokens


def make_sequences(
    prompts: Iterable[np.ndarray], limits: Iterable[int], *, sequence_ids: Iterable[int]
) -> list[Sequence]:
    """Return a sequence for each prompt in order of arrival; equal prompts share a ``Prefix``."""
    prefixes: dict[bytes, Prefix] = {}
    sequences = []
    for index, (prompt, limit, sequence_id) in enumerate(zip(prompts, limits, sequence_ids, strict=True)):
        tokens = np.ascontiguousarray(prompt, np.int32)
        prefix = prefixes.setdefault(tokens.tobytes(), Prefix(len(tokens) - 1))
        prefix.waiting += 1
        sequences.append(Sequence(index, int(sequence_id), tokens, int(limit), prefix))
    return sequences
