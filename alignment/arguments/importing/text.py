"""Comments, quotes and variables in the text of a shell script."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping

_QUOTED = re.compile(r"""('[^']*'|"(?:\\.|[^"\\])*")""", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+(?:\[[@*]\])?)(?:(:?)-([^{}]*))?\})")
_ARRAY = re.compile(r"\"?\$\{(\w+)\[[@*]\]\}\"?")
_ALL_ARGUMENTS = re.compile(r"\"\$(?:[@*]|\{[@*][^}]*\})\"|\$(?:[@*]|\{[@*][^}]*\})")
_SUBSTITUTION = re.compile(r"\$\(\([^\n]*?\)\)|\$\([^()\n]*\)|`[^`\n]*`")
_SEPARATED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\.|(;|&&)""", re.DOTALL)
_ESCAPED = re.compile(r"\$'((?:\\.|[^'\\])*)'", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"', "r": "\r"}
COMPUTED = "$COMPUTED"
"""Stands for what a command of the script would give."""
_TAKEN = "\0"
"""Stands for the $ of a value, which is not expanded again."""


def scan(text: str) -> tuple[str, str]:
    """Return ``text`` without comments and with plain quotes in place of ``$'...'``, and the quote that is open."""
    kept: list[str] = []
    quote, place = "", 0
    while place < len(text):
        char, escaped = text[place], None if quote else _ESCAPED.match(text, place)
        if escaped:
            kept.append(shlex.quote(re.sub(r"\\(.)", _escape, escaped[1], flags=re.DOTALL)))
            place = escaped.end()
            continue
        if char == "\\" and quote != "'":
            kept.append(text[place : place + 2])
            place += 2
            continue
        if char == "#" and not quote and (place == 0 or text[place - 1] in " \t\n;|&("):
            end = text.find("\n", place)
            place = len(text) if end < 0 else end
            continue
        if char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        kept.append(char)
        place += 1
    return "".join(kept), quote


def split_list(line: str) -> Iterator[str]:
    """Yield the parts of ``line`` between ; and &&, whose variables have values only when the parts before have run."""
    begin = 0
    for match in _SEPARATED.finditer(line):
        if match[1]:
            yield line[begin : match.start()]
            begin = match.end()
    yield line[begin:]


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return ``text`` with the values of variables, except between single quotes; unknown names stay as they are."""

    def value(match: re.Match[str]) -> str:
        known = variables.get(match[1] or match[2])
        if match[4] is not None and (known is None or (match[3] and not known)):
            return match[4]
        return match[0] if known is None else known.replace("$", _TAKEN)

    def array(match: re.Match[str]) -> str:
        return variables.get(f"{match[1]}[@]", match[0])

    def expanded(part: str) -> str:
        part = _ARRAY.sub(array, _ALL_ARGUMENTS.sub("", _SUBSTITUTION.sub(COMPUTED, part)))
        before = None
        while part != before:
            before, part = part, _VARIABLE.sub(value, part)
        return part.replace(_TAKEN, "$")

    return "".join(part if part.startswith("'") else expanded(part) for part in _QUOTED.split(text))


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[1], match[0])
