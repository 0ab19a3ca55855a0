"""Rows divided into micro-batches: by number, or by tokens, balanced over the processes."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.architecture.parts import even_cut
from alignment.errors import DataError
from alignment.parallel.micro_batches import Families, MicroBatches


def _ragged(seed, count, longest=200):
    return np.random.default_rng(seed).integers(1, longest + 1, count).tolist()


def _sums(groups, sizes):
    return [sum(sizes[row] for row in group) for group in groups]


def test_without_a_budget_rows_are_cut_by_number_in_their_order():
    assert MicroBatches(rows=2, ranks=4).divide([9, 1, 9, 1, 5]) == [[0, 1], [2, 3], [4]]


def test_a_budget_by_hand():
    """20 tokens need two micro-batches of 10: the two longest are apart, and each gets what fills it."""
    assert MicroBatches(rows=1, max_tokens=10).divide([6, 3, 7, 4]) == [[1, 2], [0, 3]]
    assert MicroBatches(rows=1, max_tokens=20).divide([6, 3, 7, 4]) == [[0, 1, 2, 3]]
    assert MicroBatches(rows=1, max_tokens=20, ranks=2).divide([6, 3, 7, 4]) == [[1, 2], [0, 3]]
    assert MicroBatches(rows=4, max_tokens=7).divide([4, 4, 4]) == [[0], [1], [2]], "more than half cannot share"
    assert MicroBatches(rows=4, max_tokens=7, ranks=4).divide([4, 4]) == [[0], [1]], "fewer rows than processes"


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 7, 64, 200])
@pytest.mark.parametrize("budget", [200, 333, 5000])
def test_every_row_is_in_one_micro_batch_within_the_budget(ranks, count, budget):
    sizes = _ragged(count, count)
    groups = MicroBatches(rows=3, max_tokens=budget, ranks=ranks).divide(sizes)
    assert sorted(row for group in groups for row in group) == list(range(count))
    assert all(group == sorted(group) for group in groups)
    assert max(_sums(groups, sizes)) <= budget
    assert len(groups) % ranks == 0 or len(groups) == count < ranks or len(groups) == count
    assert groups == MicroBatches(rows=1, max_tokens=budget, ranks=ranks).divide(sizes), "depends on the sizes alone"


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_few_and_balanced_micro_batches(ranks):
    """Near the least number that the tokens need, and processes with equal work."""
    sizes = _ragged(5, 256)
    groups = MicroBatches(rows=1, max_tokens=1600, ranks=ranks).divide(sizes)
    assert len(groups) <= -(-sum(sizes) // 1600) + ranks
    sums = _sums(groups, sizes)
    assert max(sums) - min(sums) <= 8
    shares = [sum(sums[slice(*even_cut(len(groups), ranks, index))]) for index in range(ranks)]
    assert max(shares) / min(shares) < 1.001


def test_processes_get_equal_tokens_where_micro_batches_differ():
    sizes = [100, 90, 80, 70, 10, 20, 30, 40]
    groups = MicroBatches(rows=1, max_tokens=100, ranks=2).divide(sizes)
    sums = _sums(groups, sizes)
    half = len(groups) // 2
    assert len(groups) % 2 == 0 and abs(sum(sums[:half]) - sum(sums[half:])) <= 20


def test_many_rows_that_cannot_share_a_micro_batch_take_no_search():
    sizes = [600 + i % 2 for i in range(2000)]
    assert len(MicroBatches(rows=1, max_tokens=1000, ranks=8).divide(sizes)) == 2000


def test_a_row_over_the_budget():
    batches = MicroBatches(rows=1, max_tokens=64)
    says = r"^max_tokens_per_batch=64: training row 1 \(counted from 0\) has 80 tokens.*Give 80 or more"
    with pytest.raises(DataError, match=says):
        batches.check([3, 80, 70], "training row")
    with pytest.raises(DataError, match="has 80 tokens"):
        batches.divide([3, 80, 70])
    batches.check([])
    MicroBatches(rows=1).check([10**6])


@pytest.mark.parametrize("ranks", [1, 2])
def test_rows_of_a_family_stay_together_where_they_fit(ranks):
    sizes, numbers = _ragged(5, 64), np.repeat(np.arange(16), 4)
    families = Families(numbers, np.zeros(64, np.int64))
    groups = MicroBatches(rows=1, max_tokens=3000, ranks=ranks).divide(sizes, families)
    assert sorted(row for group in groups for row in group) == [*range(64)]
    assert max(_sums(groups, sizes)) <= 3000 and len(groups) % ranks == 0
    assert sum(len({numbers[row] for row in group}) for group in groups) == 16, "no family is cut"
    small = max(sizes)
    cut = MicroBatches(rows=1, max_tokens=small).divide(sizes, families)
    assert sorted(row for group in cut for row in group) == [*range(64)] and max(_sums(cut, sizes)) <= small


def test_tokens_that_a_family_shares_count_once():
    """Rows of 10 with prompts of 6: two of a family take 14; a row that cannot share (0) takes all of its own."""
    families = Families([0, 1, 0, 1, 2], np.array([6, 6, 6, 0, 0]))
    assert families.count(np.full(5, 10), [0, 2]) == 14
    assert families.count(np.full(5, 10), [1, 3]) == 20, "nobody may stand before the one that could"
    assert families.count(np.full(5, 10), [4]) == 10
    assert MicroBatches(rows=1, max_tokens=14).divide([10] * 3, Families([0, 1, 0], np.array([6] * 3))) == [[0, 2], [1]]
    assert MicroBatches(rows=1, max_tokens=14).divide([10] * 3) == [[0], [1], [2]]


def test_processes_are_balanced_by_the_tokens_that_are_left():
    """One family of 8 rows is computed as 24 tokens, as much as three single rows: it has a process to itself."""
    families = Families([*[0] * 8, 1, 2, 3], np.array([*[8] * 8, 0, 0, 0]))
    sizes = np.array([*[10] * 8, 8, 8, 8])
    groups = MicroBatches(rows=1, max_tokens=24, ranks=2).divide(sizes, families)
    assert groups == [[*range(8)], [8, 9, 10]] or groups == [[8, 9, 10], [*range(8)]]
