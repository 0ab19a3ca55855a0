"""The reference's log-probs: kept by the content of rows and model, and found again."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest

from alignment.parallel.comms.group import ALONE
from alignment.records import TokenBatch
from alignment.runs.offline.pairs import answer_batch, count_answers
from alignment.runs.offline.reference import KeptRows, row_keys

PAIRS = [
    {"better_input_ids": np.array([1, 5, 7, 2]), "worse_input_ids": np.array([1, 5, 8, 9, 2]), "prompt_length": 2},
    {"better_input_ids": np.array([1, 6, 7]), "worse_input_ids": np.array([1, 6, 2]), "prompt_length": 1},
]


class _Runner:
    """Gives each row minus its number of tokens, and counts the rows it is asked for."""

    def __init__(self):
        self.rows = 0

    def forward(self, batches, read):
        self.rows += sum(batch.num_rows for batch in batches)
        return [-batch.lengths.astype(np.float32) for batch in batches]


@pytest.fixture
def kept(tmp_path):
    """Return a function: the numbers kept under a key, read anew from the disk."""
    start = SimpleNamespace(topology=SimpleNamespace(world=ALONE), output_dir=tmp_path)
    return lambda key="model": KeptRows(start, key)


def test_preferred_answers_come_first_and_only_answers_are_targets():
    batch = answer_batch(PAIRS)
    assert batch.lengths.tolist() == [4, 3, 5, 3]
    assert batch.target_rows.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert batch.target_positions.tolist() == [2, 3, 1, 2, 2, 3, 4, 1, 2]
    assert count_answers([batch, answer_batch(PAIRS[:1])]) == (3, 6)


def test_a_row_is_known_by_its_tokens_and_targets_whatever_stands_beside_it():
    both, first = answer_batch(PAIRS), answer_batch(PAIRS[:1])
    assert [row_keys(both)[0], row_keys(both)[2]] == row_keys(first)
    assert len(set(row_keys(both))) == 4
    other = TokenBatch.build([np.array([1, 5, 7, 2])], [np.array([3])])
    assert row_keys(other)[0] != row_keys(first)[0]


def test_numbers_are_computed_once_and_found_by_the_next_run(kept):
    runner = _Runner()
    rows = kept()
    rows.complete([answer_batch(PAIRS[:1])], lambda: runner, None)
    assert rows.numbers(answer_batch(PAIRS[:1])).tolist() == [-4.0, -5.0] and runner.rows == 2
    again = kept()
    again.complete([answer_batch(PAIRS[:1])], lambda: pytest.fail("the reference is not needed"), None)
    again.complete([answer_batch(PAIRS)], lambda: runner, None)
    assert runner.rows == 6, "a batch with a row that is not known"
    assert kept().numbers(answer_batch(PAIRS[::-1])).tolist() == [-3.0, -4.0, -3.0, -5.0]
    assert kept("another model")._known == {}


def _saved(save, *arrays, **named):
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


OTHERS = [_saved(np.save, np.zeros(2)), _saved(np.savez, keys=np.zeros((2, 16), np.uint8)),
          _saved(np.savez, keys=np.zeros((2, 16), np.uint8), numbers=np.zeros(3)),
          _saved(np.savez, keys=np.array([{}], object), numbers=np.zeros(1)),
          _saved(np.savez, keys=np.zeros(()), numbers=np.zeros(1))]  # fmt: skip
"""What numpy reads, or could read as pickles, and no run has written."""


@pytest.mark.parametrize("damage", [b"", b"PK", b"not an archive at all", *OTHERS])
def test_a_damaged_file_is_said_and_computed_again(kept, tmp_path, damage, caplog):
    kept().complete([answer_batch(PAIRS)], _Runner, None)
    (path,) = tmp_path.glob("reference_logprobs/model/*.npz")
    path.write_bytes(damage)
    assert kept()._known == {}
    line = caplog.messages[-1]
    assert line == (
        f"{path} is damaged (it is no archive that a run wrote); the log-probs of the reference are computed again"
    )


def test_a_cut_archive_is_damaged_too(kept, tmp_path):
    kept().complete([answer_batch(PAIRS)], _Runner, None)
    (path,) = tmp_path.glob("reference_logprobs/model/*.npz")
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        assert kept()._known == {}
    flipped = bytearray(whole)
    flipped[whole.index(np.float32(-5.0).tobytes())] ^= 1
    path.write_bytes(bytes(flipped))
    assert kept()._known == {}
