"""The blocks of the paged key-value cache: a free list and reference counts."""

from __future__ import annotations

from collections.abc import Iterable


def blocks_for(num_tokens: int, block_tokens: int) -> int:
    """Return how many blocks hold ``num_tokens`` tokens."""
    return -(-num_tokens // block_tokens)


def blocks_of_slot(longest: int, block_tokens: int) -> int:
    """Return how many blocks a sequence of ``longest`` tokens may hold: one more while a shared block is copied."""
    return blocks_for(longest, block_tokens) + 1


class BlockPool:
    """Blocks 0 to num_blocks - 1; a block without holders is free."""

    def __init__(self, num_blocks: int) -> None:
        self._free = list(range(num_blocks - 1, -1, -1))
        self._holders = [0] * num_blocks

    @property
    def num_blocks(self) -> int:
        """Number of all blocks."""
        return len(self._holders)

    @property
    def num_free(self) -> int:
        """Number of free blocks."""
        return len(self._free)

    def holders(self, block: int) -> int:
        """Return the number of holders of ``block``."""
        return self._holders[block]

    def take(self, count: int) -> list[int]:
        """Take ``count`` free blocks, most recently freed first, and return them with one holder each."""
        assert 0 <= count <= len(self._free), f"{count} blocks wanted, {len(self._free)} free"
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Add a holder to each of ``blocks``, none of which may be free."""
        for block in blocks:
            assert self._holders[block] > 0, f"block {block} is free"
            self._holders[block] += 1

    def drop(self, blocks: Iterable[int]) -> None:
        """Remove a holder from each of ``blocks``; those without holders become free."""
        for block in blocks:
            assert self._holders[block] > 0, f"block {block} is free"
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._free.append(block)
