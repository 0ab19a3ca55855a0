"""Selection orders against safe-rlhf, and their properties."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.data.raw.mixing import count_rows, select_rows, split_rows
from alignment.errors import DataError

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "safe_rlhf_vectors.json"
CASES = json.loads(GOLDEN.read_text())["cases"]["dataset_mix"]["cases"]


@pytest.mark.parametrize(
    ("case", "sizes", "proportions"),
    [
        ("sizes[10,8]_props[0.75,0.5]_seed42", [10, 8], [0.75, 0.5]),
        ("sizes[10]_props[2.3]_seed42", [10], [2.3]),
        ("sizes[10]_count[4]_seed42 (4/-1)", [10], [Fraction(4, -1)]),
    ],
)
def test_order_equals_safe_rlhf(case, sizes, proportions):
    assert [part.tolist() for part in select_rows(sizes, proportions, seed=42)] == CASES[case]


def test_split_equals_safe_rlhf():
    train, test = split_rows(10, 0.2, shuffle=True, seed=42)
    assert {"train": train.tolist(), "test": test.tolist()} == CASES["split_train_test_n10_ratio0.2_seed42"]


def test_split_that_rounds_to_no_test_row_keeps_all_for_training():
    train, test = split_rows(10, 0.04, shuffle=True, seed=42)
    assert sorted(train) == list(range(10)) and len(test) == 0


def test_split_without_shuffle_cuts_the_end():
    train, test = split_rows(5, 0.4, shuffle=False, seed=0)
    assert (train.tolist(), test.tolist()) == ([0, 1, 2], [3, 4])


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_split_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(DataError, match="between 0 and 1"):
        split_rows(10, ratio, shuffle=True, seed=0)


def test_count_uses_bankers_rounding():
    assert [count_rows(5, 0.5), count_rows(7, 0.5), count_rows(10, Fraction(-3))] == [2, 4, 3]


@given(st.integers(1, 30), st.floats(0, 4), st.integers(0, 2**31))
def test_every_row_comes_about_equally_often(size, proportion, seed):
    (rows,) = select_rows([size], [proportion], seed=seed)
    counts = np.bincount(rows, minlength=size)
    assert len(rows) == round(size * proportion)
    assert counts.max() - counts.min() <= 1
