"""The pool's free list and its counts."""

from __future__ import annotations

import pytest

from alignment.generation.fused.blocks import BlockPool, blocks_for


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2)])
def test_blocks_for(tokens, blocks):
    assert blocks_for(tokens, 16) == blocks


def test_blocks_are_taken_and_come_back():
    pool = BlockPool(4)
    first = pool.take(3)
    assert sorted(first) == [0, 1, 2] and pool.num_free == 1 and pool.num_blocks == 4
    pool.drop(first[:2])
    assert pool.num_free == 3
    assert len({*pool.take(3), first[2]}) == 4


def test_a_shared_block_is_free_when_its_last_holder_drops_it():
    pool = BlockPool(2)
    (block,) = pool.take(1)
    pool.share([block])
    assert pool.holders(block) == 2
    pool.drop([block])
    assert pool.num_free == 1
    pool.drop([block])
    assert pool.num_free == 2 and pool.holders(block) == 0


def test_misuse_is_caught():
    pool = BlockPool(1)
    with pytest.raises(AssertionError, match="2 blocks wanted, 1 free"):
        pool.take(2)
    for use in (pool.share, pool.drop):
        with pytest.raises(AssertionError, match="block 0 is free"):
            use([0])
