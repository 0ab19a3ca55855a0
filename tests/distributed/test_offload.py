"""Training with weights and optimizer in host memory between uses, in every sharding stage, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alignment.architecture.layout import Layout
from alignment.parallel.local_ranks import run_ranks

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize(("layout", "stage"), [(Layout(sharding=2), 2), (Layout(sharding=2), 3)])
def test_offload_changes_where_tensors_are_and_nothing_else(layout, stage):
    folder = Path(__file__).parent
    for rank in run_ranks("ranks_offload:compare", layout, stage, world_size=layout.world_size, search_path=[folder]):
        plain = rank["plain"]
        assert set(plain["away"]) == {(0, 0)}
        for name in ("every call", "every update"):
            for what in ("weights", "state"):
                assert rank[name][what].keys() == plain[what].keys()
                for key, value in plain[what].items():
                    np.testing.assert_array_equal(rank[name][what][key], value, err_msg=f"{name}, {what} {key}")
        check_places(rank, is_sliced=stage == 3)


def check_places(rank: dict, *, is_sliced: bool) -> None:
    """Check what was away: weights with gradients between calls, moments behind the first update."""
    weights = 4 * rank["parameters"]
    for index, (model, optimizer) in enumerate(rank["every call"]["away"]):
        assert model > 0.45 * weights if is_sliced else model >= weights
        assert optimizer > 0.9 * weights if index else True
    assert [model for model, _ in rank["every update"]["away"][::2]] == [0, 0, 0]
    assert all(model > 0 for model, _ in rank["every update"]["away"][1::2])
    assert rank["every call"]["away after"] == rank["every call"]["away"][-1]
    frozen = rank["frozen"]
    assert frozen["same"]
    assert frozen["away"][0] == frozen["away"][2] > 0.4 * weights
    assert frozen["away"][1] == 0
    assert frozen["whole"] == 0
