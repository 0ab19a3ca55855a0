"""Wrong types and missing fields of a raw sample."""

from __future__ import annotations

import numpy as np
import pytest

from alignment.data.raw.raw_sample import check_sample, given_fields, require_fields
from alignment.errors import DataError


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("text", "a row must be a RawSample"),
        ({"input": 3}, "'input' must be a string, a list of strings or a list of messages, got int 3"),
        ({"input": ["a", "b"]}, "odd number of turns .* got 2"),
        ({"input": []}, "odd number of turns"),
        ({"input": ["a", 1, "c"]}, "turn 1 must be a string"),
        ({"answer": ["a"]}, "'answer' must be a string, got list"),
        ({"other_answer": 1.5}, "'other_answer' must be a string"),
        ({"better": 1}, "'better' must be true or false, got int 1"),
        ({"safer": "yes"}, "'safer' must be true or false"),
        ({"is_safe": 0}, "'is_safe'"),
        ({"dialogue": "a"}, "'dialogue' must be a list of strings"),
        ({"dialogue": ["a"]}, "in pairs, got 1"),
        ({"dialogue": []}, "in pairs, got 0"),
    ],
)
def test_wrong_types_are_refused_with_place(sample, message):
    with pytest.raises(DataError, match=f"dataset 'x', row 7.*{message}"):
        check_sample(sample, "dataset 'x', row 7")


def test_values_become_plain_and_none_stays():
    checked = check_sample({"input": ("a", "b", "c"), "better": np.bool_(True), "answer": None, "other": 1}, "p")
    assert checked == {"input": ["a", "b", "c"], "better": True, "answer": None}
    assert type(checked["better"]) is bool


def test_better_none_is_a_tie():
    assert check_sample({"better": None}, "p") == {"better": None}


def test_missing_fields_are_listed_with_those_present():
    with pytest.raises(DataError, match="p: missing 'other_answer', 'better'.*preference.*present: input, answer"):
        require_fields({"input": "a", "answer": "b"}, ("input", "other_answer", "better"), kind="preference", place="p")


def test_the_fields_that_are_named_as_present_hold_a_value_or_say_that_there_is_a_tie():
    assert given_fields({"input": "a", "answer": None, "better": None, "safer": True}) == ["input", "better", "safer"]
