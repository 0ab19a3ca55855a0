"""Read the commands of a shell script without running it.

Understood are quotes, line continuations, comments, variables, ``read -d '' NAME <<EOF``, pipes and lists of commands.
A loop is read once; what stands inside ``if`` sets no variables, so that a script is read as in its first round.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from alignment.errors import ArgumentError

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^}]*))?\})")
_SUBSTITUTION = re.compile(r"\$\(\([^\n]*?\)\)|\$\([^()\n]*\)|`[^`\n]*`")
_COMPUTED = "$COMPUTED"
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_NUMBERED = re.compile(r"(?<=\s)\d>")
"""Matches the redirection of a numbered stream, as in 2>&1."""
_OPERATOR = re.compile(r"[();<>|&]+")
_SKIPPED = frozenset({"then", "do", "else", "elif", "while", "until", "time", "!", "{", "exec", "export", "nohup"})
"""Words before a command that do not change what it does."""


class ShellCommand(NamedTuple):
    """A command of a script."""

    words: tuple[str, ...]
    line: int
    """Number of the line on which it begins."""


def read_commands(text: str) -> list[ShellCommand]:
    """Return the commands of a script in order; an ArgumentError names the line of an open quote."""
    return list(_Script(text).read())


class _Script:
    """Reads a script line by line and keeps its variables."""

    def __init__(self, text: str) -> None:
        self._lines = text.replace("\r\n", "\n").split("\n")
        self._next = 0
        self._variables: dict[str, str] = {}
        self._depth = 0
        """How many ``if`` are open."""

    def read(self) -> Iterator[ShellCommand]:
        while self._next < len(self._lines):
            start = self._next + 1
            line = self._read_line()
            heredoc = _HEREDOC.search(line)
            if heredoc:
                self._read_heredoc(line[: heredoc.start()], heredoc[2])
                continue
            for words in _split(self._split_words(line, start)):
                command = self._keep(words)
                if command:
                    yield ShellCommand(tuple(command), start)

    def _read_line(self) -> str:
        """Return the next line with those that continue it, without comments."""
        line = _without_comment(self._take())
        while line.endswith("\\") and self._next < len(self._lines):
            line = f"{line[:-1]} {_without_comment(self._take()).strip()}"
        return line

    def _take(self) -> str:
        self._next += 1
        return self._lines[self._next - 1].rstrip()

    def _split_words(self, line: str, start: int) -> list[str]:
        """Return the words of ``line``, and of the lines to which a quote extends."""
        while True:
            text = _NUMBERED.sub(">", expand(line, self._variables))
            lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
            lexer.whitespace_split, lexer.commenters = True, ""
            try:
                return list(lexer)
            except ValueError as error:
                if self._next >= len(self._lines):
                    raise ArgumentError(f"line {start}: {error} in {line.strip()!r:.80}") from None
                line = f"{line}\n{self._read_line()}"

    def _read_heredoc(self, before: str, end: str) -> None:
        """Read up to the line ``end``; after ``read`` the text becomes the value of a variable."""
        body = []
        while self._next < len(self._lines) and (line := self._take()).strip() != end:
            body.append(line[:-1] if line.endswith("\\") else line)
        words = before.split()
        if words and words[0] == "read":
            self._variables[words[-1]] = expand(" ".join(" ".join(body).split()), self._variables)

    def _keep(self, words: list[str]) -> list[str]:
        """Return a command without what only prepares it, after setting variables; empty if nothing is left."""
        while words and (words[0] in _SKIPPED or words[0] in ("if", "fi")):
            self._depth = max(0, self._depth + {"if": 1, "fi": -1}.get(words[0], 0))
            words = words[1:]
        pairs = []
        while words and (match := _ASSIGNMENT.fullmatch(words[0])):
            pairs.append(match.groups())
            words = words[1:]
        if not words and not self._depth:
            self._variables.update(pairs)
        return words


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return ``text`` with the values of variables, except between single quotes; unknown names stay as they are."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return variables.get(name, match[3] if match[3] is not None else match[0])

    parts = re.split(r"('[^']*')", text)
    found = (
        part if part.startswith("'") else _VARIABLE.sub(value, _SUBSTITUTION.sub(_COMPUTED, part)) for part in parts
    )
    return "".join(found)


def _without_comment(line: str) -> str:
    """Return ``line`` without a comment; a # after a quote may be text and stays."""
    match = re.search(r"(?:^|\s)#", line)
    return line if match is None or re.search(r"['\"]", line[: match.start()]) else line[: match.start()].rstrip()


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
