"""The parser on small groups."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.arguments.parser import parse_arguments
from alignment.errors import ArgumentError
from alignment.fields import argument, inert, refused, unless, where
from alignment.registry import near_matches


@dataclass(frozen=True, kw_only=True)
class First:
    needed: str
    """Needed."""
    number: float = argument(0.5, minimum=0, below=1)
    """A number."""
    count: int = argument(3, aliases=("old_count",), advice={"num_counts": "give count, not its number"})
    """A count."""
    flag: bool = False
    """A flag."""


@dataclass(frozen=True, kw_only=True)
class Second:
    kind: Literal["x", "y"] = "x"
    """A kind."""
    names: tuple[str, ...] = ()
    """Names."""
    maybe: int | None = None
    """Perhaps."""
    model: str | None = argument(None, path="model")
    """A model."""
    result: str | None = argument(None, path="output")
    """A result."""
    other: int = argument(
        1, inert_when=(where("kind", "x", why="x has none"), unless("maybe", 1, 2)), refused_when=where("flag", True)
    )
    """Another."""
    half: bool = refused(False, "it is not built")
    """Refused."""
    old: bool = inert(False, "nothing to do")
    """Inert."""


GROUPS = {"first": First, "second": Second}


def _parse(tmp_path, content, *argv, checks=()):
    path = tmp_path / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
    return parse_arguments(GROUPS, [str(path), *argv], checks=checks)


def _message(tmp_path, content, *argv, checks=()):
    with pytest.raises(ArgumentError) as error:
        _parse(tmp_path, content, *argv, checks=checks)
    return str(error.value)


def test_values_and_origins(tmp_path):
    parsed = _parse(
        tmp_path, {"needed": "a", "number": 0.25, "names": "p,q"}, "--number", "0.75", "--flag", "--maybe=-2"
    )
    assert parsed.first == First(needed="a", number=0.75, flag=True)
    assert parsed.second == Second(names=("p", "q"), maybe=-2)
    assert parsed.base_dir == tmp_path
    assert parsed.origins["needed"] == "file"
    assert parsed.origins["number"] == "command line"
    assert parsed.origins["kind"] == "default"
    assert parsed.given("flag")
    assert not parsed.given("kind")
    assert parsed.as_dict()["names"] == ("p", "q")


def test_the_file_is_optional(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parsed = parse_arguments(GROUPS, ["--needed", "a"])
    assert parsed.first.needed == "a"
    assert parsed.base_dir == tmp_path


def test_results_are_frozen(tmp_path):
    parsed = _parse(tmp_path, {"needed": "a"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.first.number = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.groups = {}
    with pytest.raises(AttributeError, match="no argument group 'third'; groups: first, second"):
        _ = parsed.third


def test_all_problems_at_once(tmp_path):
    text = """{
 "nubmer": 1,
 "number": 1,
 "count": "many",
 "kind": "z",
 "kind": "w",
 "half": true,
 "model": "no/such/folder",
 "flag": null
}"""
    message = _message(tmp_path, text, "--maybe", "--names", "p", "--names", "q", "stray")
    for words in (
        "12 invalid argument(s)",
        "unknown argument 'nubmer'",
        "did you mean 'number'",
        "number: expected a value >= 0 and < 1, got 1.0",
        "count: expected a whole number, got 'many'",
        "kind: expected one of 'x', 'y', got 'w'",
        "kind: given more than once (lines 5 and 6",
        "half: True is refused: it is not built",
        "model folder 'no/such/folder' does not exist",
        "flag: null is not allowed",
        "maybe: has no value",
        "names: given more than once",
        "expected --key value on the command line, got 'stray'",
        "missing required argument 'needed'",
    ):
        assert words in message, words
    assert f"{tmp_path / 'a.json'}, line 2" in message


def test_a_known_foreign_key_says_what_to_write(tmp_path):
    assert "unknown argument 'num_counts' (command line): give count, not its number" in _message(
        tmp_path, {"needed": "a"}, "--num_counts", "3"
    )


def test_alias_counts_as_its_key(tmp_path):
    parsed = _parse(tmp_path, {"needed": "a", "old_count": 7})
    assert parsed.first.count == 7
    assert parsed.given("count")
    assert _parse(tmp_path, {"needed": "a", "old_count": 7, "count": 7}).first.count == 7
    assert _parse(tmp_path, {"needed": "a", "old_count": 7}, "--count", "8").first.count == 8
    message = _message(tmp_path, {"needed": "a", "old_count": 7, "count": 8})
    assert "old_count and count are two names of one argument with different values: 7 and 8" in message


def test_default_of_a_refused_key_may_be_given(tmp_path):
    assert _parse(tmp_path, {"needed": "a", "half": False}).second.half is False


def test_paths_are_resolved_by_where_they_were_written(tmp_path, monkeypatch):
    base, current = tmp_path / "config", tmp_path / "work"
    for folder in (base, current, base / "m", current / "m", current / "n"):
        folder.mkdir()
    monkeypatch.chdir(current)
    from_file = _parse(base, {"needed": "a", "model": "m", "result": "out/r"})
    assert from_file.second.model == str(base / "m")
    assert from_file.second.result == str(current / "out/r")
    assert _parse(base, {"needed": "a", "model": "n"}).second.model == str(current / "n")
    assert _parse(base, {"needed": "a"}, "--model", "m").second.model == str(current / "m")
    assert _parse(base, {"needed": "a", "model": "org/name"}).second.model == "org/name"


def test_checks_skip_what_is_wrong_itself_and_join_the_rest(tmp_path):
    def check_count(v):
        if v.count > 5:
            yield "count is above 5"

    def check_number(v):
        if v.number > v.count:
            yield "number above count"

    message = _message(tmp_path, {"needed": "a", "count": 9, "number": "x"}, checks=(check_count, check_number))
    assert "2 invalid" in message
    assert "count is above 5" in message


def test_a_check_that_names_no_argument_is_a_programmers_error(tmp_path):
    with pytest.raises(AssertionError, match="no argument 'countt'"):
        _parse(tmp_path, {"needed": "a"}, checks=(lambda v: [v.countt],))


def test_a_key_in_two_groups_is_a_programmers_error():
    with pytest.raises(AssertionError, match="two groups"):
        parse_arguments({"a": First, "b": First}, [])


def test_saved_with_origin_and_nothing_left_aside(tmp_path):
    parsed = _parse(tmp_path, {"needed": "a", "names": ["p"]})
    path = parsed.save(tmp_path / "out")
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert saved["names"] == {"value": ["p"], "origin": "file"}
    assert saved["count"] == {"value": 3, "origin": "default"}
    assert set(saved) == set(parsed.as_dict())
    assert [p.name for p in path.parent.iterdir()] == ["arguments.json"]


def _help(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(GROUPS, argv)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_lists_keys_by_group_required_ones_first(capsys):
    out = _help(capsys, "--help")
    keys = "first:\n    number  count  flag\n\nsecond:\n    kind  names  maybe  model  result  other\n"
    assert f"required:\n    needed\n\n{keys}" in out
    assert "half" not in out and "\n2 more keys" in out


@pytest.mark.parametrize("written", ["number", "--number"])
def test_help_of_a_key_tells_range_default_and_meaning(written, capsys):
    assert _help(capsys, "a.json", "-h", written) == "number: number >= 0 and < 1; default 0.5\n    A number.\n"


def test_help_knows_other_names_and_what_does_nothing(capsys):
    out = _help(capsys, "--help", "old_count", "old", "half")
    assert "count: whole number; default 3\n    A count. Also written old_count." in out
    assert "No effect here: nothing to do." in out and "is refused: it is not built." in out


def test_help_tells_when_a_key_does_nothing_or_is_refused(capsys):
    out = " ".join(_help(capsys, "--help", "other").split())
    assert out.endswith("Another. No effect where kind is x, or where maybe is not 1 or 2. Refused where flag is true.")


def test_help_of_a_group_explains_all_its_keys(capsys):
    out = _help(capsys, "--help", "first")
    heads = [line.split(":")[0] for line in out.splitlines() if line[:1].strip()]
    assert heads == ["needed", "number", "count", "flag"]


def test_help_of_a_part_of_a_key_names_the_keys_that_hold_it():
    with pytest.raises(ArgumentError, match="keys that contain 'ount': count, old_count; --help alone"):
        parse_arguments(GROUPS, ["--help", "ount"])


@pytest.mark.parametrize("program", ["/x/alignment/__main__.py", "/x/bin/alignment"])
def test_help_shows_the_command_that_was_called(program, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [program, "train", "ppo", "--help"])
    assert _help(capsys, "--help").startswith("usage: alignment train ppo [arguments.json")
    monkeypatch.setattr("sys.argv", ["alignment/ppo/run_ppo.py", "--help"])
    assert _help(capsys, "--help").startswith("usage: run_ppo.py [arguments.json")


def test_a_name_known_twice_is_suggested_once():
    assert near_matches("kl_coef", ["kl_coeff", "rate", "kl_coeff"]) == "; did you mean 'kl_coeff'?"


def test_help_of_an_unknown_key_names_near_ones():
    with pytest.raises(ArgumentError, match="--help numbr: no such key; did you mean 'number'"):
        parse_arguments(GROUPS, ["--help", "numbr"])


_names = st.text(st.characters(codec="ascii", min_codepoint=97, max_codepoint=122), min_size=1).filter(
    lambda text: text not in ("none", "null")
)


@settings(max_examples=60, deadline=None)
@given(
    values=st.fixed_dictionaries(
        {"needed": _names},
        optional={
            "number": st.floats(0, 1, exclude_max=True),
            "count": st.integers(-(10**9), 10**9),
            "flag": st.booleans(),
            "kind": st.sampled_from(["x", "y"]),
            "names": st.lists(_names, unique=True).map(tuple),
            "maybe": st.none() | st.integers(),
        },
    )
)
def test_round_trip_by_file_and_by_command_line(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("round")
    from_file = _parse(folder, {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()})
    tokens = [f"--{key}={','.join(v) if isinstance(v, tuple) else v}" for key, v in values.items()]
    from_line = parse_arguments(GROUPS, tokens)
    for parsed, origin in ((from_file, "file"), (from_line, "command line")):
        assert {key: parsed.as_dict()[key] for key in values} == values
        assert {key for key in parsed.origins if parsed.given(key)} == set(values)
        assert set(parsed.origins.values()) <= {origin, "default"}
