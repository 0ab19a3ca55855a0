"""Batch order, epochs, and the exact position in the middle of one."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.data import PromptOnlyDataset
from alignment.data.loader import BatchLoader, ContinuousLoader
from alignment.errors import CheckpointError, DataError


def open_loader(size: int = 10, **changes) -> BatchLoader:
    return BatchLoader(range(size), **{"batch_size": 3, "seed": 7, "shuffle": True, "drop_last": False, **changes})


def test_order_depends_on_seed_and_epoch_only():
    batches = list(open_loader().iterate(2))
    assert sum(batches[:4], []) == np.random.default_rng([7, 0]).permutation(10).tolist()
    assert sum(batches[4:], []) == np.random.default_rng([7, 1]).permutation(10).tolist()
    assert [len(batch) for batch in batches] == [3, 3, 3, 1] * 2


def test_without_shuffle_rows_come_in_order():
    assert list(open_loader(5, shuffle=False).iterate(1)) == [[0, 1, 2], [3, 4]]


def test_drop_last_leaves_the_remainder_out():
    loader = open_loader(drop_last=True)
    assert (loader.batches_per_epoch, loader.dropped_per_epoch) == (3, 1)
    assert [len(batch) for batch in loader.iterate(1)] == [3, 3, 3]


@pytest.mark.parametrize(
    ("size", "changes", "expected"),
    [
        (9, {}, "3 rows"),
        (10, {}, "up to 3 rows"),
        (10, {"drop_last": True}, "3 rows"),
        (2, {}, "2 rows"),
        (1, {}, "1 row"),
    ],
)
def test_a_batch_is_said_to_hold_no_more_rows_than_there_are(size, changes, expected):
    assert open_loader(size, **changes).describe_batches() == expected


def test_drop_last_is_counted_in_the_ledger(make_dataset, tokenizer):
    rows = [{"input": word} for word in "abcde"]
    dataset = PromptOnlyDataset(make_dataset(rows, "loader"), tokenizer)
    BatchLoader(dataset, batch_size=3, seed=0, drop_last=True)
    assert dataset.ledger.total("dropped_last_batch") == 2


@given(size=st.integers(1, 12), batch=st.integers(1, 5), taken=st.integers(0, 20), shuffle=st.booleans())
def test_a_restored_loader_continues_exactly(size, batch, taken, shuffle):
    loader, whole = (open_loader(size, batch_size=batch, shuffle=shuffle) for _ in range(2))
    list(islice(loader.cycle(), taken))
    restored = open_loader(size, batch_size=batch, shuffle=shuffle)
    restored.load_state_dict(loader.state_dict())
    assert list(islice(restored.cycle(), 7)) == list(islice(whole.cycle(), taken + 7))[taken:]


def test_a_state_taken_while_a_batch_is_worked_on_points_to_the_next():
    loader = open_loader(6, shuffle=False)
    for batch in loader.iterate(1):
        state = loader.state_dict()
        assert state["position"] == (1 if batch[0] == 0 else 0)
    assert loader.epoch == 1 and list(loader.iterate(1)) == []


@pytest.mark.parametrize("changes", [{"size": 11}, {"batch_size": 2}, {"seed": 8}, {"shuffle": False}])
def test_a_state_of_other_data_is_refused(changes):
    state = open_loader().state_dict()
    with pytest.raises(CheckpointError, match="does not match this run: .* was .* and is"):
        open_loader(**changes).load_state_dict(state)


def test_impossible_batches_are_refused():
    with pytest.raises(DataError, match="batch size 0"):
        open_loader(batch_size=0)
    with pytest.raises(DataError, match="2 rows give no batch of 3"):
        open_loader(2, drop_last=True)
    with pytest.raises(DataError, match="0 rows give no batch"):
        open_loader(0)


def _continuous(size=10, **changes):
    return ContinuousLoader(range(size), **{"batch_size": 4, "seed": 7, **changes})


@pytest.mark.parametrize("size", [3, 8, 10])
def test_the_last_batch_of_an_epoch_is_completed_with_rows_of_the_next(size):
    loader = _continuous(size)
    stream, batches, ends = loader.iterate(), [], []
    for _ in range(9):
        batches.append(next(stream))
        ends.append(loader.epoch_ended)
    assert all(len(batch) == 4 for batch in batches)
    rows = [row for epoch in range(14) for row in np.random.default_rng([7, epoch]).permutation(size).tolist()]
    assert sum(batches, []) == rows[:36]
    assert ends == [(4 * n) // size < (4 * (n + 1)) // size for n in range(9)]


@given(size=st.integers(1, 12), batch=st.integers(1, 5), taken=st.integers(0, 20))
def test_a_restored_continuous_loader_goes_on_exactly(size, batch, taken):
    loader = _continuous(size, batch_size=batch)
    stream = loader.iterate()
    for _ in range(taken):
        next(stream)
    again = _continuous(size, batch_size=batch)
    again.load_state_dict(loader.state_dict())
    rest = again.iterate()
    assert [next(rest) for _ in range(4)] == [next(stream) for _ in range(4)]


def test_a_position_that_an_earlier_version_saved_in_batches_is_the_same_row():
    before = BatchLoader(range(10), batch_size=4, seed=7)
    next(before.iterate())
    loader = _continuous()
    loader.load_state_dict(before.state_dict())
    order = np.random.default_rng([7, 0]).permutation(10).tolist()
    assert next(loader.iterate()) == order[4:8]


def test_drop_last_leaves_whole_batches_of_each_epoch():
    loader = _continuous(drop_last=True)
    orders = [np.random.default_rng([7, epoch]).permutation(10)[:8].tolist() for epoch in (0, 1)]
    assert sum(islice(loader.iterate(), 4), []) == orders[0] + orders[1]
