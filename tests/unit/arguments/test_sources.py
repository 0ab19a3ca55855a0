"""The command line as a source of values."""

from __future__ import annotations

from pathlib import Path

from alignment.arguments.sources import BARE, Given, read_call, read_command_line


def test_both_forms_bare_flags_and_negative_numbers():
    source = read_command_line(["--a", "1", "--b=2", "--c", "--d", "-1", "--e=-0.5", "--f"])
    values = {given.key: given.value for given in source.given}
    assert values == {"a": "1", "b": "2", "c": BARE, "d": "-1", "e": "-0.5", "f": BARE}
    assert not source.problems


def test_repeated_key_and_stray_word_on_the_command_line():
    source = read_command_line(["--a", "1", "stray", "--a=2"])
    assert len(source.problems) == 2
    assert "'stray'" in source.problems[0]
    assert "a: given more than once" in source.problems[1]
    assert "'1', '2'" in source.problems[1]


def test_a_call_is_read_as_a_file_is():
    source = read_call({"a": Path("x") / "y", "b": (1, Path("z")), "c": {"d": (None,)}, "//": "a remark", "e": "--f"})
    place = ("Python call", "in the call from Python")
    assert source.given == [Given("a", "x/y", *place), Given("b", [1, "z"], *place), Given("c", {"d": [None]}, *place),
                            Given("e", "--f", *place)]  # fmt: skip
    assert source.problems == []


def test_a_function_in_a_call_is_refused_and_the_message_says_how_it_is_given():
    source = read_call({"reward_function": len, "output_dir": "o"})
    assert [given.key for given in source.given] == ["output_dir"]
    assert source.problems == [
        "reward_function: a Python function cannot be given itself (<built-in function len>); pass the function by "
        "name, as 'file.py:function' or 'package.module:function'"
    ]
