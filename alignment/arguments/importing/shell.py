"""Read the commands of a shell script without running it.

Understood are quotes, line continuations, comments, variables and arrays, ``read -d '' NAME <<EOF``, ``bash -c``, pipes
and lists of commands. A loop is read once, with its first value; what stands inside ``if`` sets no variables, and the
script is taken to be started without arguments, so that it is read as in its first round.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from alignment.arguments.importing.text import expand, scan, split_list
from alignment.errors import ArgumentError

_HEREDOC = re.compile(r"(?<!<)<<-?\s*(['\"]?)([A-Za-z_]\w*)\1")
_ARRAY = re.compile(r"\s*(?:(?:export|local|declare|readonly|typeset)\s+(?:-\w+\s+)*)?(\w+)(\+?)=\(")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_NUMBERED = re.compile(r"(?<=\s)\d>")
"""Matches the redirection of a numbered stream, as in 2>&1."""
_OPERATOR = re.compile(r"[();<>|&]+")
_DECLARING = frozenset({"export", "local", "declare", "readonly", "typeset"})
_SKIPPED = frozenset({"then", "do", "else", "elif", "while", "until", "time", "!", "{", "exec", "nohup"}) | _DECLARING
"""Words before a command that do not change what it does."""
_SHELL = re.compile(r"(.*/)?(ba|z)?sh")


class ShellCommand(NamedTuple):
    """A command of a script."""

    words: tuple[str, ...]
    line: int
    """Number of the line on which it begins."""


def read_commands(text: str) -> list[ShellCommand]:
    """Return the commands of a script in order; an ArgumentError names the line of an open quote."""
    return list(_Script(text, {}).read())


class _Script:
    """Reads a script line by line and keeps its variables; an array is called ``NAME[@]``."""

    def __init__(self, text: str, variables: dict[str, str]) -> None:
        self._lines = text.lstrip("\ufeff").replace("\r\n", "\n").split("\n")
        self._next = 0
        self._variables = variables
        self._depth = 0
        """How many ``if`` are open."""

    def read(self) -> Iterator[ShellCommand]:
        while self._next < len(self._lines):
            start = self._next + 1
            line = self._read_line()
            heredoc, array = _HEREDOC.search(line), _ARRAY.match(line)
            if heredoc:
                self._read_heredoc(line[: heredoc.start()], heredoc[2], start)
            elif array:
                self._read_array(array, line[array.end() :], start)
            else:
                for part in split_list(line):
                    yield from self._read_part(part, start)

    def _read_part(self, line: str, start: int) -> Iterator[ShellCommand]:
        lexer = shlex.shlex(_NUMBERED.sub(">", expand(line, self._variables)), posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        try:
            found = list(lexer)
        except ValueError as error:
            raise ArgumentError(f"line {start}: {error} in {line.strip()!r:.80}") from None
        for words in _split(found):
            command = self._keep(words)
            if not command:
                continue
            if command[0].startswith("--"):
                raise ArgumentError(
                    f"line {start}: a command begins with {command[0]}: an empty line, a comment, or a line without "
                    "\\ at its end ended the one before"
                )
            yield from self._inner(command, start)

    def _inner(self, command: list[str], start: int) -> Iterator[ShellCommand]:
        """Yield a command, or those of the text that it gives to a shell."""
        for place, word in enumerate(command[1:-1], 1):
            if re.fullmatch(r"-\w*c", word) and _SHELL.fullmatch(command[place - 1]):
                inner = _Script(command[place + 1], self._variables).read()
                yield from (ShellCommand(found.words, start) for found in inner)
                return
        yield ShellCommand(tuple(command), start)

    def _read_line(self) -> str:
        """Return the next line with those that continue it, by a backslash or in an open quote, without comments."""
        start, text = self._next + 1, ""
        while self._next < len(self._lines):
            text, quote = scan(text + self._take())
            is_continued = (len(text) - len(text.rstrip("\\"))) % 2 == 1 and quote != "'"
            if is_continued:
                text = text[:-1] + ("" if quote else " ")
            elif quote:
                text += "\n"
            else:
                return text
        if quote:
            raise ArgumentError(f"line {start}: No closing quotation in {text.strip()!r:.80}")
        return text

    def _take(self) -> str:
        self._next += 1
        return self._lines[self._next - 1].rstrip()

    def _read_heredoc(self, before: str, end: str, start: int) -> None:
        """Read up to the line ``end``; after ``read`` the text becomes the value of a variable."""
        body = []
        while self._next < len(self._lines) and (line := self._take()).strip() != end:
            body.append(line[:-1] if line.endswith("\\") else line)
        else:
            if self._lines[self._next - 1].strip() != end:
                raise ArgumentError(f"line {start}: the text after <<{end} has no line {end} at its end")
        words = before.split()
        if words and words[0] == "read":
            self._variables[words[-1]] = expand(" ".join(" ".join(body).split()), self._variables)

    def _read_array(self, begin: re.Match[str], text: str, start: int) -> None:
        """Read ``NAME=(WORD ...)``; its words are kept with their quotes."""
        while not text.rstrip().endswith(")"):
            if self._next >= len(self._lines):
                raise ArgumentError(f"line {start}: {begin[1]}=( has no closing parenthesis")
            text = f"{text} {self._read_line()}"
        if not self._depth:
            name = f"{begin[1]}[@]"
            before = self._variables.get(name, "") if begin[2] else ""
            self._variables[name] = f"{before} {expand(text.rstrip()[:-1], self._variables)}".strip()

    def _keep(self, words: list[str]) -> list[str]:
        """Return a command without what only prepares it, after setting variables; empty if nothing is left."""
        while words and (words[0] in _SKIPPED or words[0] in ("if", "fi")):
            self._depth = max(0, self._depth + {"if": 1, "fi": -1}.get(words[0], 0))
            is_declared = words[0] in _DECLARING
            words = words[1:]
            while is_declared and words and words[0].startswith("-"):
                words = words[1:]
        pairs = []
        while words and (match := _ASSIGNMENT.fullmatch(words[0])):
            pairs.append(match.groups())
            words = words[1:]
        if words[:1] == ["for"] and words[2:3] == ["in"] and len(words) > 3:
            pairs, words = [(words[1], "", re.sub(r"\{(\w+)\.\.\w+\}", r"\1", words[3]))], []
        if not words and not self._depth:
            for name, plus, value in pairs:
                self._variables[name] = (self._variables.get(name, "") if plus else "") + value
        return words


def _split(words: list[str]) -> Iterator[list[str]]:
    """Yield the commands between operators; the targets of redirections are dropped."""
    command: list[str] = []
    is_target = False
    for word in words:
        if _OPERATOR.fullmatch(word):
            if not set(word) & set("<>"):
                yield command
                command = []
            is_target = bool(set(word) & set("<>"))
        elif is_target:
            is_target = False
        else:
            command.append(word)
    yield command
