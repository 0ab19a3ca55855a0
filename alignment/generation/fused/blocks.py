"""Blocks of the paged key-value cache: a free list and a count of holders for each."""

from __future__ import annotations

from collections.abc import Iterable


def blocks_for(num_tokens: int, block_tokens: int) -> int:
    """Return how many blocks hold ``num_tokens`` tokens."""
    return -(-num_tokens // block_tokens)


class BlockPool:
    """Blocks 0 to num_blocks - 1; a block is free when nobody holds it."""

    def __init__(self, num_blocks: int) -> None:
        self._free = list(range(num_blocks - 1, -1, -1))
        self._holders = [0] * num_blocks

    @property
    def num_blocks(self) -> int:
        """All blocks, free or not."""
        return len(self._holders)

    @property
    def num_free(self) -> int:
        """Blocks that can be taken."""
        return len(self._free)

    def holders(self, block: int) -> int:
        """Return how many hold ``block``."""
        return self._holders[block]

    def take(self, count: int) -> list[int]:
        """Return ``count`` free blocks, each with one holder; the last ones freed come first."""
        assert 0 <= count <= len(self._free), f"{count} blocks wanted, {len(self._free)} free"
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Add a holder to each of ``blocks``, which are held already."""
        for block in blocks:
            assert self._holders[block] > 0, f"block {block} is free"
            self._holders[block] += 1

    def drop(self, blocks: Iterable[int]) -> None:
        """Take a holder from each of ``blocks``; those without one are free again."""
        for block in blocks:
            assert self._holders[block] > 0, f"block {block} is free"
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._free.append(block)
