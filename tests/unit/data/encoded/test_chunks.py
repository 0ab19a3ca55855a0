"""Rows on their way to another process and back: nothing but their places is lost, and equal rows are equal bytes."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.data.encoded.chunks import Encoded, encode_chunk, pack_rows, unpack_rows
from alignment.data.encoded.mixture import Row
from alignment.data.ledger import BadRow
from alignment.errors import DataError


def _row(number, sample, fault=None, place="file line 1"):
    return Row(number, 2, number + 10, place, sample, fault)


@pytest.mark.parametrize("value", ["b", ["b", 1.5, None, True], {"role": "user"}, np.float32(0.5)])
def test_a_row_comes_back_whole_without_its_place(value):
    (row,) = unpack_rows(pack_rows([_row(3, {"input": "a", "answer": value})]))
    assert row == Row(3, 2, 13, "", {"input": "a", "answer": value}, None)


def test_a_bad_row_comes_back_with_its_reason_and_words():
    (row,) = unpack_rows(pack_rows([_row(0, None, BadRow("null_field", "line 1: 'a' is null"))]))
    assert (row.sample, row.fault.reason, str(row.fault)) == (None, "null_field", "line 1: 'a' is null")


def test_equal_rows_are_equal_bytes_whatever_file_they_come_from():
    assert pack_rows([_row(0, {"input": "a"})]) == pack_rows([_row(0, {"input": "a"}, place="other")])
    assert pack_rows([_row(0, {"input": "a"})]) != pack_rows([_row(0, {"input": "b"})])
    assert pack_rows([_row(0, {"input": "a"})]) != pack_rows([_row(1, {"input": "a"})])


def test_a_chunk_says_what_became_of_each_row_up_to_the_one_that_stops_it():
    def encode(row):
        if row.sample is None:
            raise DataError("stop")
        ids = np.array([row.index])
        return Encoded(None if row.sample == "bad" else {"ids": ids}, ("empty",) if row.sample == "bad" else ())

    rows = [_row(number, sample) for number, sample in enumerate(["x", "bad", "y", None, "z"])]
    chunk = encode_chunk(encode, rows)
    assert chunk.used.tolist() == [True, False, True, False, False]
    assert (chunk.reasons, chunk.failed_at, chunk.store.size) == ({1: ("empty",)}, 3, 2)
    assert [chunk.store.read(number)["ids"].tolist() for number in range(2)] == [[10], [12]]
    whole = encode_chunk(encode, rows[:3])
    assert whole.failed_at is None and whole.used.tolist() == [True, False, True]
