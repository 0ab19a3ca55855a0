"""Assign key-value blocks to sequences, and keep prefixes for waiting sequences.

A block is written only by the sequence that took it. Others share the full blocks of a prefix, and copy its last,
partial block before writing to it, so they never read what the first sequence wrote after the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

from alignment.generation.fused.blocks import BlockPool, blocks_for
from alignment.generation.fused.sequences import Prefix, Sequence


@dataclass(slots=True)
class Counts:
    """Statistics of a run."""

    steps: int = 0
    """Forward passes."""
    rows: int = 0
    """Rows of all passes."""
    drafted: int = 0
    """Rows of all passes that were drafted tokens (speculative decoding)."""
    accepted: int = 0
    """Those whose token was the one drawn."""
    preemptions: int = 0
    """How often a sequence lost its slot because blocks ran out."""
    shared_tokens: int = 0
    """Prompt tokens not computed again."""
    copies: int = 0
    """Blocks copied on write."""
    forgotten: int = 0
    """Prefixes dropped because blocks ran out."""


class Paging:
    """Blocks of ``block_tokens`` tokens for the sequences in slots and for kept prefixes."""

    def __init__(self, num_blocks: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.counts = Counts()
        self._pool = BlockPool(num_blocks)
        self._kept: list[Prefix] = []

    @property
    def num_blocks(self) -> int:
        """Number of all blocks."""
        return self._pool.num_blocks

    @property
    def num_free(self) -> int:
        """Number of free blocks."""
        return self._pool.num_free

    def needed(self, sequence: Sequence) -> int:
        """Return the number of free blocks needed to give ``sequence`` a slot."""
        return self._count(sequence.num_known) - self._num_shared(sequence.prefix)

    def enter(self, sequence: Sequence) -> None:
        """Give ``sequence`` blocks for its known tokens, sharing those of a kept prefix."""
        prefix = sequence.prefix
        prefix.waiting -= 1
        prefix.users += 1
        num_shared, wanted = self._num_shared(prefix), self.needed(sequence)
        shared = prefix.blocks[:num_shared]
        self._pool.share(shared)
        sequence.blocks = shared + self._pool.take(wanted)
        if prefix.blocks:
            self._follow(sequence, num_shared)
        elif prefix.waiting and prefix.num_tokens:
            self._lead(sequence)
        if prefix.blocks and not prefix.waiting:
            self._forget(prefix)

    def grow(self, sequence: Sequence) -> int:
        """Give ``sequence`` one more block and return it."""
        sequence.blocks += self._pool.take(1)
        return sequence.blocks[-1]

    def advance(self, sequence: Sequence, count: int) -> None:
        """Record that ``count`` more known tokens of ``sequence`` have been computed."""
        sequence.computed += count
        prefix = sequence.prefix
        if prefix.leader is sequence and sequence.computed >= prefix.num_tokens:
            prefix.leader = None

    def start_writing(self, sequence: Sequence) -> tuple[int, int] | None:
        """Return the block copy (source, target) that ``sequence`` needs before its first row, None if none."""
        source = sequence.source
        if source is None:
            return None
        sequence.source = None
        self._pool.drop([source])
        self.counts.copies += 1
        return source, sequence.blocks[sequence.prefix.num_tokens // self.block_tokens]

    def leave(self, sequence: Sequence, *, to_wait: bool) -> None:
        """Free all blocks of ``sequence``; ``to_wait``: it will return later and compute its tokens again."""
        prefix = sequence.prefix
        prefix.users -= 1
        if prefix.leader is sequence:
            self._forget(prefix)
        if sequence.source is not None:
            self._pool.drop([sequence.source])
        self._pool.drop(sequence.blocks)
        sequence.blocks, sequence.source, sequence.awaited = [], None, None
        if to_wait:
            prefix.waiting += 1
            sequence.computed = 0

    def give_up(self, sequence: Sequence) -> None:
        """Forget ``sequence``, which has no slot and never gets one."""
        prefix = sequence.prefix
        prefix.waiting -= 1
        if prefix.blocks and not prefix.waiting:
            self._forget(prefix)

    def forget_idle(self, *, but: Prefix | None = None) -> bool:
        """Drop the newest kept prefix that no sequence in a slot uses, except ``but``; False if there is none."""
        for prefix in reversed(self._kept):
            if prefix.users == 0 and prefix is not but:
                self.counts.forgotten += 1
                self._forget(prefix)
                return True
        return False

    def forget_all(self) -> None:
        """Drop every kept prefix; none of them may still be computed."""
        for prefix in list(self._kept):
            assert prefix.leader is None, "a sequence is computing this prefix"
            self.counts.forgotten += 1
            self._forget(prefix)

    def _count(self, num_tokens: int) -> int:
        return blocks_for(num_tokens, self.block_tokens)

    def _num_shared(self, prefix: Prefix) -> int:
        return prefix.num_tokens // self.block_tokens if prefix.blocks else 0

    def _follow(self, sequence: Sequence, num_shared: int) -> None:
        prefix = sequence.prefix
        sequence.computed, sequence.awaited = prefix.num_tokens, prefix.leader
        self.counts.shared_tokens += prefix.num_tokens
        if prefix.num_tokens % self.block_tokens:
            sequence.source = prefix.blocks[num_shared]
            self._pool.share([sequence.source])

    def _lead(self, sequence: Sequence) -> None:
        """Keep the blocks into which ``sequence`` will compute the prefix."""
        prefix = sequence.prefix
        prefix.leader = sequence
        prefix.blocks = sequence.blocks[: self._count(prefix.num_tokens)]
        self._pool.share(prefix.blocks)
        self._kept.append(prefix)

    def _forget(self, prefix: Prefix) -> None:
        self._pool.drop(prefix.blocks)
        prefix.blocks, prefix.leader = [], None
        self._kept.remove(prefix)
