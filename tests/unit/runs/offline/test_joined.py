"""Passes over several micro-batches at once: the same numbers, as few passes as the memory of an update allows."""

from types import SimpleNamespace

import numpy as np
import pytest

from alignment.records import TokenBatch
from alignment.runs.offline import joined
from alignment.runs.offline.joined import NOT_JOINED, Joining, forward_joined, joining_of


class _Runner:
    """Gives each row the sum of its target tokens; remembers the rows of every pass."""

    def __init__(self):
        self.passes = []

    def forward(self, batches, read):
        self.passes = [batch.num_rows for batch in batches]
        return [read(None, batch) for batch in batches]


def _read(_, batch):
    return np.bincount(batch.target_rows, weights=batch.target_ids, minlength=batch.num_rows)


def _batches(*rows):
    """Return micro-batches of so many rows of 2 to 5 tokens, whose targets are the last ones."""
    made = []
    for count in rows:
        sequences = [np.arange(1, 3 + (len(made) + row) % 4) * 10 + row for row in range(count)]
        made.append(TokenBatch.build(sequences, [np.arange(1, len(ids)) for ids in sequences]))
    return made


@pytest.mark.parametrize(
    ("rows", "joining", "passes"),
    [
        ((2, 2, 2, 2), Joining(8), [8]),
        ((2, 2, 2, 2), Joining(4), [4, 4]),
        ((2, 2, 2, 1), Joining(7, ranks=2), [4, 3]),
        ((2, 2, 2), Joining(8, ranks=2), [4, 2]),
        ((2, 2), Joining(8, ranks=2), [2, 2]),
        ((5, 2, 2), Joining(4), [5, 2, 2]),
        ((2, 2), NOT_JOINED, [2, 2]),
        ((3,), Joining(8), [3]),
        ((), Joining(8), []),
    ],
)
def test_joined_passes_give_each_micro_batch_its_numbers(rows, joining, passes):
    batches, runner = _batches(*rows), _Runner()
    found = forward_joined(runner, batches, _read, joining)
    assert runner.passes == passes
    assert [part.tolist() for part in found] == [_read(None, batch).tolist() for batch in batches]


@pytest.mark.parametrize(
    ("changed", "rows"),
    [({}, 16), ({"layers": 3}, 12), ({"stages": 2}, 0), ({"recompute": True}, 0), ({"budget": 99}, 0)],
)
def test_joining_stays_within_the_memory_of_an_update(monkeypatch, changed, rows):
    given = {"layers": 12, "stages": 1, "recompute": False, "budget": None} | changed
    cut = SimpleNamespace(rows=2, max_tokens=given["budget"], ranks=1)
    monkeypatch.setattr(joined, "micro_batches_of", lambda launch, rows_per_sample: cut)
    launch = SimpleNamespace(
        topology=SimpleNamespace(pipeline=SimpleNamespace(size=given["stages"])),
        parsed=SimpleNamespace(training=SimpleNamespace(recompute=given["recompute"])),
    )
    model = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=given["layers"]))
    assert joining_of(launch, model, 2).rows == rows
