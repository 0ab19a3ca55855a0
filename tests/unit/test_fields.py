"""When a value does nothing, and how that is said."""

from __future__ import annotations

import dataclasses

import pytest

from alignment.fields import Situation, argument, constraint_of, show_value, unless, where, where_given


def _holds(case, value, **values):
    return case.holds(value, Situation("cpu", 1, values))


@pytest.mark.parametrize("value", [1, 0.5, True, "full", (2,), -1])
def test_where_holds_for_one_of_the_words(value):
    case = where("kind", "a", "b")
    assert [_holds(case, value, kind=kind) for kind in ("a", "b", "c", None)] == [True, True, False, False]
    assert not _holds(case, value), "a run without the key"
    assert (case.why, case.when) == ("kind is a or b",) * 2


def test_where_a_key_is_not_given():
    case = where("model", None, why="there is no model")
    assert _holds(case, 2, model=None) and not _holds(case, 2, model="m")
    assert (case.why, case.when) == ("there is no model", "model is not given")


@pytest.mark.parametrize("value", [None, 0, 0.0, False])
def test_what_asks_for_nothing_loses_nothing(value):
    assert not _holds(where("kind", "a"), value, kind="a")
    assert not _holds(where_given("max_steps"), value, max_steps=5)


def test_unless_holds_for_other_words_and_counts_a_zero_as_given():
    case = unless("flag", True, why="flag is off")
    assert [_holds(case, value, flag=False) for value in (1, 0, False, None)] == [True, True, True, False]
    assert not _holds(case, 1, flag=True)
    assert (case.why, case.when) == ("flag is off", "flag is not true")


@pytest.mark.parametrize(("other", "holds"), [(5, True), ("text", True), (-1, False), (0, False), (None, False)])
def test_a_key_that_is_given_takes_the_place_of_another(other, holds):
    case = where_given("max_steps")
    assert _holds(case, 3.0, max_steps=other) is holds
    assert (case.why, case.when) == ("max_steps is given and wins", "max_steps is given")


def test_one_case_or_several_may_be_declared():
    first, second = where("a", 1), where("b", 2)

    @dataclasses.dataclass
    class Group:
        one: int = argument(1, inert_when=first)
        several: int = argument(1, refused_when=(first, second))
        plain: int = 1

    one, several, plain = map(constraint_of, dataclasses.fields(Group))
    assert (one.inert_when, one.refused_when) == ((first,), ())
    assert several.refused_when == (first, second)
    assert (plain.inert_when, plain.refused_when) == ((), ())


def test_values_are_shown_as_a_user_writes_them():
    assert [show_value(value) for value in (True, False, 1.5, "x", ("a", 2))] == ["true", "false", "1.5", "x", "a 2"]
