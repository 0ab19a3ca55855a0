"""A script is read as a shell would, without running it."""

from __future__ import annotations

import pytest

from alignment.arguments.importing.shell import read_commands
from alignment.errors import ArgumentError


def _words(text):
    return [list(command.words) for command in read_commands(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run --a 1 \\\n  --b 'two  words'", ["run", "--a", "1", "--b", "two  words"]),
        ("N=3\nrun --n $N --m ${N}0 --o ${P:-7}", ["run", "--n", "3", "--m", "30", "--o", "7"]),
        ("N=3\nrun '$N' \"$N\"", ["run", "$N", "3"]),
        ("X=1 CUDA_VISIBLE_DEVICES=0 run --a 1 > log.txt 2>&1 &", ["run", "--a", "1"]),
        ("run --a 1 # a remark", ["run", "--a", "1"]),
        ("run --text '# no remark'", ["run", "--text", "# no remark"]),
        ('run --empty ""', ["run", "--empty", ""]),
        ("if [ ! -e x ]; then\n  run --a 1\nfi", ["run", "--a", "1"]),
        ("read -r -d '' V <<EOF\nrun \\\n  --a 1\n  --b 2 \\\n   EOF\n$V", ["run", "--a", "1", "--b", "2"]),
        ("run --n $((1 + 2))", ["run", "--n", "$COMPUTED"]),
        ("run --text 'one\ntwo'", ["run", "--text", "one\ntwo"]),
    ],
)
def test_the_last_command_has_these_words(text, words):
    found = [line for line in _words(text) if line[0] == "run"]
    assert found == [words]


def test_a_list_of_commands_is_several():
    assert _words("a 1 && b 2; c | d &") == [["a", "1"], ["b", "2"], ["c"], ["d"]]


def test_what_an_if_sets_is_not_what_the_first_round_has():
    text = "M=first\nwhile (($i < 3)); do\n  if ((i > 0)); then\n    M=later\n  fi\n  run $M\ndone"
    assert ["run", "first"] in _words(text)


def test_commands_know_their_lines():
    assert [(command.words[0], command.line) for command in read_commands("a \\\n 1\n\nb")] == [("a", 1), ("b", 4)]


def test_an_open_quote_is_an_error_with_its_line():
    with pytest.raises(ArgumentError, match="line 2: No closing quotation"):
        read_commands("run\nrun 'open")
