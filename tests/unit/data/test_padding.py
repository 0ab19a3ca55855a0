"""Ragged rows to rectangles and masks from lengths."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alignment.data.padding import mask_rows, pad_rows, row_lengths

rows_of_ids = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=5)
ragged = rows_of_ids.map(lambda rows: [np.array(row, int) for row in rows])


@given(rows=ragged, value=st.integers(0, 9), left=st.booleans())
def test_the_mask_gives_every_row_back(rows, value, left):
    padded, mask = pad_rows(rows, value=value, left=left), mask_rows(rows, left=left)
    assert padded.shape == mask.shape and mask.dtype == bool
    assert [line[keep].tolist() for line, keep in zip(padded, mask, strict=True)] == [row.tolist() for row in rows]
    assert (padded[~mask] == value).all()
    assert mask.sum(axis=-1).tolist() == row_lengths(rows).tolist()


def test_sides():
    rows = [np.array([1, 2, 3]), np.array([], int), np.array([4])]
    assert pad_rows(rows, value=9).tolist() == [[1, 2, 3], [9, 9, 9], [4, 9, 9]]
    assert pad_rows(rows, value=9, left=True).tolist() == [[1, 2, 3], [9, 9, 9], [9, 9, 4]]
