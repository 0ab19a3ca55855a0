"""Numbers on the command lines of the tools."""

from __future__ import annotations

import argparse
import re

import pytest

from alignment.arguments.command_line import ToolParser, number, numbers
from alignment.commands import chat
from alignment.errors import ArgumentError


@pytest.mark.parametrize(("text", "value"), [("7", 7), ("1e3", 1000), (" 2 ", 2)])
def test_whole_numbers(text, value):
    assert number(int, minimum=1)(text) == value


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "inf", "seven", "", "1e400", "9" * 500, "11"])
def test_what_is_no_number_in_the_range_is_refused_with_the_range(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"whole number|finite|>= 1 and <= 10|text"):
        number(int, minimum=1, maximum=10)(text)


def test_lists_hold_each_number_once():
    assert numbers(int, minimum=0)("3,1,2") == [3, 1, 2]
    for text in ("1,1", "1,,2", "1,a", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            numbers(int, minimum=0)(text)


@pytest.mark.parametrize("argv", [["--count", "0"], ["--cuont", "1"], [], ["--count"]])
def test_what_a_tool_cannot_read_is_one_error_and_no_exit(argv, capsys):
    parser = ToolParser(prog="tool")
    parser.add_argument("--count", type=number(int, minimum=1), required=True)
    with pytest.raises(ArgumentError, match=r"count.*\(tool --help lists the options\)"):
        parser.parse_args(argv)
    assert capsys.readouterr() == ("", "")


def test_help_says_the_default_of_every_option_that_has_one_once(capsys):
    parser = ToolParser(prog="tool")
    parser.add_argument("--count", type=int, default=7, help="so many")
    parser.add_argument("--zero", type=int, default=0, help="none")
    parser.add_argument("--own", default="x", help="default: that of the file")
    parser.add_argument("--flag", action="store_true", help="on")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in ("so many (default 7)", "none (default 0)", "default: that of the file --flag"):
        assert words in said
    assert said.endswith("--flag on")


def test_help_of_chat_says_how_an_answer_is_drawn(capsys):
    with pytest.raises(SystemExit):
        chat.parse(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for option, default in (("max_new_tokens", "256"), ("temperature", "1.0"), ("top_p", "1.0"), ("top_k", "0")):
        assert re.search(rf"--{option} [^(]*\(default {default}\)", said), option
