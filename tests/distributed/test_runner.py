"""Runners of every layout against one process: outputs, metrics and gradients, micro-batch counts that divide or not.

Stages alone do the same sums in the same order, so a pipeline has to give the very same numbers.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from alignment.architecture.layout import Layout
from alignment.parallel.local_ranks import run_ranks

pytestmark = pytest.mark.distributed
COUNTS = [1, 2, 5]
EMBEDDING = "model.embed_tokens.weight"
TOLERANCE = 2e-6
"""Of the largest value of each tensor, where sums over ranks are taken in another order."""


def run(layout: Layout, tied: bool, recompute: bool) -> list[dict]:
    return run_ranks(
        "ranks_runner:run_all",
        layout,
        COUNTS,
        tied,
        recompute,
        world_size=layout.world_size,
        search_path=[Path(__file__).parent],
    )


@functools.cache
def run_alone(tied: bool, recompute: bool) -> dict:
    return run(Layout(), tied, recompute)[0]


def check(layout: Layout, *, tied: bool = False, recompute: bool = False) -> None:
    """Compare every rank's results in ``layout`` with those of one process."""
    ranks = run(layout, tied, recompute)
    for key, want in run_alone(tied, recompute).items():
        for rank in ranks:
            for name in ("outputs", "metrics", "shared", "missing"):
                close(rank[key][name], want[name], where=(key, name))
        gradients = add_gradients([rank[key]["gradients"] for rank in ranks])
        assert gradients.keys() == want["gradients"].keys(), key
        for name, value in want["gradients"].items():
            is_summed = layout.batch > 1 or (tied and name == EMBEDDING)
            close(gradients[name], value, where=(key, name), tolerance=TOLERANCE if is_summed else 0.0)


def add_gradients(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Add what all ranks have by name: micro-batches over ranks, and both copies of a tied embedding."""
    total: dict[str, np.ndarray] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total[name] + value if name in total else value
    return total


def close(got, want, *, where, tolerance: float = 0.0) -> None:
    """Assert that two nests of lists, tuples, dictionaries, numbers and arrays are alike."""
    if isinstance(want, dict):
        assert got.keys() == want.keys(), where
        got, want = list(got.values()), [want[key] for key in got]
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want), where
        for index, value in enumerate(want):
            close(got[index], value, where=(where, index), tolerance=tolerance)
    elif isinstance(want, str):
        assert got == want, where
    else:
        got, want = np.asarray(got), np.asarray(want)
        assert got.shape == want.shape, where
        assert np.abs(got - want).max(initial=0) <= tolerance * np.abs(want).max(initial=0), where


def test_two_stages():
    check(Layout(pipeline=2))


def test_two_stages_of_two_chunks_with_tied_embeddings_and_recomputation():
    check(Layout(pipeline=2, virtual_stages=2), tied=True, recompute=True)


def test_two_batch_ranks():
    check(Layout(data=2))


def test_four_stages():
    check(Layout(pipeline=4))


def test_two_stages_and_two_batch_ranks():
    check(Layout(pipeline=2, data=2))


@pytest.mark.slow
def test_four_stages_of_two_chunks_and_two_batch_ranks():
    check(Layout(pipeline=4, virtual_stages=2, sharding=2), tied=True, recompute=True)
