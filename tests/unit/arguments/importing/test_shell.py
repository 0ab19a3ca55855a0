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
        ("run --text 'one\n# two'", ["run", "--text", "one\n# two"]),
        ("run --text 'x' --b 2 # it's --c 3", ["run", "--text", "x", "--b", "2"]),
        ("run --b a#b \\   \n  --c 2 \\\r\n  --d", ["run", "--b", "a#b", "--c", "2", "--d"]),
        ('\ufeffrun --text "it\'s $N"', ["run", "--text", "it's $N"]),
        ("N=4\nrun --text \"it's $N\" 'not $N'", ["run", "--text", "it's 4", "not $N"]),
        ("run --text $'a: {}\\n\\'b'", ["run", "--text", "a: {}\n'b"]),
        ("A=x\nB=${A}/y\nrun $B ${C:-${A}/z} ${D-e}", ["run", "x/y", "x/z", "e"]),
        ("E=\nrun ${E:-full} ${E-}", ["run", "full"]),
        ("A=$A/x\nrun $A", ["run", "$A/x"]),
        ("A='--a 1'\nA+=' --b 2'\nrun $A", ["run", "--a", "1", "--b", "2"]),
        (
            "A=(--a 1 # first\n  --b 'two words'\n)\nA+=(--c)\nrun \"${A[@]}\"",
            ["run", *["--a", "1", "--b"], "two words", "--c"],
        ),
        ("readonly M=1\ndeclare -r N=2\nexport O=3 P=4\nlocal Q=5\nrun $M $N $O $P $Q", ["run", *"12345"]),
        ('run --a 1 "$@" ${@:2} $*', ["run", "--a", "1"]),
        ("M=1; run $M && echo done", ["run", "1"]),
        ("for i in {1..3}; do run $i; done", ["run", "1"]),
        ("for i in x y; do\n  run $i\ndone", ["run", "x"]),
        ("srun -N 1 bash -c 'run --a 1'", ["run", "--a", "1"]),
        ("nohup run --a 1 > log.txt 2>&1 &", ["run", "--a", "1"]),
        ("run --a 1 2>&1 | tee -a log.txt", ["run", "--a", "1"]),
        ("read -r X <<< word\nrun --a 1", ["run", "--a", "1"]),
        ("read -r -d '' V <<'EOF'\nrun --t \"it's\" --b 2\nEOF\n$V", ["run", "--t", "it's", "--b", "2"]),
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run\nrun 'open", "line 2: No closing quotation"),
        ("run --a 1 \\\n# a remark\n  --b 2", "line 3: a command begins with --b"),
        ("run\ncat <<EOF\nrun --a 1", "line 2: the text after <<EOF has no line EOF"),
        ("run\nA=(--a 1", r"line 2: A=\( has no closing parenthesis"),
    ],
)
def test_what_would_be_lost_is_an_error_with_its_line(text, said):
    with pytest.raises(ArgumentError, match=said):
        read_commands(text)


def test_an_empty_script_has_no_commands():
    assert _words("") == [] and _words("# only a remark\n\n") == []
