"""Groups of every axis: who is in them, in what order, and what each operation gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alignment.architecture.layout import Layout
from alignment.parallel.local_ranks import run_ranks

pytestmark = pytest.mark.distributed
HERE = Path(__file__).parent
AXES = {
    "world": (0, 1, 2, 3),
    "data": (0,),
    "pipeline": (1,),
    "sharding": (2,),
    "tensor": (3,),
    "batch": (0, 2),
    "replica": (1, 3),
}
"""The axes of the grid [data, pipeline, sharding, tensor] along which a group extends."""


def members(layout: Layout, rank: int, axes: tuple[int, ...]) -> list[int]:
    """Return the ranks that differ from ``rank`` in ``axes`` only."""
    shape = (layout.data, layout.pipeline, layout.sharding, layout.tensor)
    grid = np.arange(layout.world_size).reshape(shape)
    place = np.unravel_index(rank, shape)
    return grid[tuple(slice(None) if axis in axes else place[axis] for axis in range(4))].ravel().tolist()


def check(layout: Layout) -> None:
    ranks = run_ranks("ranks_groups:exercise", layout, world_size=layout.world_size, search_path=[HERE])
    for rank, result in enumerate(ranks):
        assert result["groups"].keys() == AXES.keys()
        for name, axes in AXES.items():
            check_group(result["groups"][name], members(layout, rank, axes), rank)
        if rank > 0:
            assert result["received"].tolist() == [rank - 1.0] * 2
        sent = [row for row in result["traffic"] if row[1:3] == ("world", "send")]
        assert sent == ([("start", "world", "send", 1, 8)] if rank < layout.world_size - 1 else [])


def check_group(got: dict, expected: list[int], rank: int) -> None:
    """Check what ``rank`` got in the group of the ``expected`` ranks; everyone gave [rank + 1] * 3."""
    size, index = len(expected), expected.index(rank)
    assert (list(got["ranks"]), got["index"]) == (expected, index)
    assert got["sum"].tolist() == [sum(expected) + size] * 3
    assert got["max"].tolist() == [max(expected) + 1] * 3
    assert got["gather"].tolist() == [[other + 1] * 3 for other in expected]
    assert got["scatter"].tolist() == [size * 2 * index, size * (2 * index + 1)]
    assert got["broadcast"].tolist() == [expected[-1] + 1] * 3
    assert got["objects"] == [{"rank": other} for other in expected]


def test_two_stages_twice():
    check(Layout(pipeline=2, data=2))


@pytest.mark.slow
def test_two_tensor_ranks_in_two_stages_sharded_in_two():
    check(Layout(tensor=2, pipeline=2, sharding=2))


@pytest.mark.rare
@pytest.mark.slow
def test_two_stages_sharded_in_two_and_twice():
    check(Layout(pipeline=2, sharding=2, data=2))


def test_gloo_can_be_told_to_wait():
    ranks = run_ranks("ranks_patience:set_patience", world_size=2, search_path=[HERE])
    assert ranks == [[True, True, True, False, False]] * 2


@pytest.mark.rare
@pytest.mark.slow
def test_a_rank_may_come_later_than_gloo_waits_by_itself():
    assert run_ranks("ranks_patience:come_late", 33.0, world_size=2, search_path=[HERE]) == [2.0, 2.0]
