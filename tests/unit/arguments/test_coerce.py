"""Raw values to declared types."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.arguments.coerce import coerce, describe_type
from alignment.fields import NO_CONSTRAINT, Constraint

Word = Literal["a", "b"]
SPELLED = Constraint(spellings={"old": "a"})


@pytest.mark.parametrize(
    ("raw", "hint", "expected"),
    [
        (1, bool, True),
        (0, bool, False),
        ("True", bool, True),
        ("no", bool, False),
        ("16", int, 16),
        (1e3, int, 1000),
        ("1e3", int, 1000),
        ("-1", int, -1),
        ("1e-5", float, 1e-5),
        (2, float, 2.0),
        ("", str | None, None),
        ("none", int | None, None),
        (None, float | None, None),
        ("3", int | None, 3),
        ("true", bool | str | None, True),
        (False, bool | str | None, False),
        ("folder", bool | str | None, "folder"),
        ("1", bool | str | None, "1"),
        ("a", Word, "a"),
        (False, Literal["no", "steps"], "no"),
        ("", Word | None, None),
        ("a", Word | int, "a"),
        ("3", Word | int, 3),
        ("a b, a", tuple[Word, ...], ("a", "b")),
        ("", tuple[Word, ...], ()),
        ([1, "2"], tuple[int, ...], (1, 2)),
        (5, tuple[int, ...], (5,)),
        ('["a", "b"]', tuple[Word, ...], ("a", "b")),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ("[]", tuple[int, ...], ()),
        ("[qv]_proj", tuple[str, ...], ("[qv]_proj",)),
        ("[a]", tuple[str, ...], ("[a]",)),
        ("auto", Literal["auto"] | bool, "auto"),
        ("false", Literal["auto"] | bool, False),
    ],
)
def test_accepted(raw, hint, expected):
    value = coerce(raw, hint, NO_CONSTRAINT)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("raw", "hint", "words"),
    [
        ("maybe", bool, "true or false"),
        (2, bool, "true or false"),
        (1.0, bool, "true or false"),
        (True, int, "whole number"),
        ("c", Word | int, "expected a whole number, got 'c', or 'a', 'b'"),
        (1.5, int, "whole number"),
        ("1_0x", int, "whole number"),
        ("abc", float, "number"),
        (True, float, "number"),
        (float("nan"), float, "finite"),
        ("inf", float, "finite"),
        (float("inf"), int, "whole number"),
        ([1], float, "number"),
        ({"a": 1}, tuple[int, ...], "whole number"),
        (3, str, "text"),
        ("  ", str, "text"),
        (None, int, "null is not allowed"),
        ("c", Word, "'a', 'b'"),
        (1, Word, "'a', 'b'"),
        ("maybe", Literal["auto"] | bool, "expected true, false or 'auto', got 'maybe'"),
        ('["a", "c"]', tuple[Word, ...], "'c'"),
        ("a c", tuple[Word, ...], "'c'"),
    ],
)
def test_refused_with_the_value_and_what_was_expected(raw, hint, words):
    with pytest.raises(ValueError, match=words):
        coerce(raw, hint, NO_CONSTRAINT)


def test_other_spellings_stand_for_a_value_once():
    assert coerce("old a b", tuple[Word, ...], SPELLED) == ("a", "b")
    assert coerce("old", Word, SPELLED) == "a"


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (Constraint(minimum=0), 0, -1),
        (Constraint(above=0), 0.5, 0),
        (Constraint(maximum=1), 1, 1.1),
        (Constraint(below=1), 0.9, 1),
        (Constraint(minimum=-1, excluded=(0,)), -1, 0),
    ],
)
def test_ranges(constraint, good, bad):
    assert coerce(good, float, constraint) == good
    with pytest.raises(ValueError, match="expected a value"):
        coerce(bad, float, constraint)
    with pytest.raises(ValueError, match="expected a value"):
        coerce([bad], tuple[float, ...], constraint)
    assert coerce(None, float | None, constraint) is None


@given(st.integers(-(10**30), 10**30))
def test_whole_numbers_survive_as_number_and_as_text(number):
    assert coerce(number, int, NO_CONSTRAINT) == coerce(str(number), int, NO_CONSTRAINT) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_as_number_and_as_text(number):
    assert coerce(number, float, NO_CONSTRAINT) == coerce(repr(number), float, NO_CONSTRAINT) == number


def test_types_read_like_words():
    assert describe_type(int | None, Constraint(minimum=1)) == "whole number >= 1 or null"
    assert describe_type(tuple[str, ...]) == "list of text"
    assert describe_type(Word) == "'a', 'b'"


def test_a_list_of_texts_or_numbers_keeps_either():
    assert coerce([8000, "http://here:1"], tuple[str | int, ...], Constraint()) == (8000, "http://here:1")
    assert coerce("8000 8001", tuple[str | int, ...], Constraint()) == ("8000", "8001")
    with pytest.raises(ValueError, match="expected text"):
        coerce([True], tuple[str | int, ...], Constraint())
