"""The two places arguments come from: one flat JSON file and the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import ArgumentError

BARE = object()
"""The value of a ``--flag`` without one: true for a true/false argument, a mistake for any other."""


class Given(NamedTuple):
    """One value a user wrote."""

    key: str
    value: Any
    origin: str
    """``file`` or ``command line``."""
    place: str
    """Where it stands, for messages."""


class Source(NamedTuple):
    """What one place holds."""

    given: list[Given]
    problems: list[str]


def read_json(path: Path) -> Source:
    """Read a flat JSON object; a repeated key is a problem, an unreadable file raises ArgumentError."""
    text = _read_text(path)
    pairs = _parse_pairs(text, path)
    problems: list[str] = []
    given: dict[str, Given] = {}
    for key, value in pairs:
        lines = _lines_of(key, text)
        if key in given:
            where = f"lines {' and '.join(map(str, lines))} of {path}" if len(lines) > 1 else str(path)
            problems.append(f"{key}: given more than once ({where})")
        given[key] = Given(key, value, "file", f"{path}, line {lines[0]}" if lines else str(path))
    return Source(list(given.values()), list(dict.fromkeys(problems)))


def read_command_line(tokens: Sequence[str]) -> Source:
    """Read ``--key value``, ``--key=value`` and bare ``--flag``; a value may be a negative number."""
    given: dict[str, Given] = {}
    problems: list[str] = []
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not re.match(r"--[A-Za-z_]", token):
            problems.append(f"expected --key value on the command line, got {token!r}")
            continue
        key, equals, value = token[2:].partition("=")
        item: Any = value if equals else _next_value(rest)
        if key in given:
            problems.append(f"{key}: given more than once (command line: {_show(given[key].value)}, {_show(item)})")
        given[key] = Given(key, item, "command line", "command line")
    return Source(list(given.values()), problems)


def _next_value(rest: list[str]) -> Any:
    return rest.pop(0) if rest and not rest[0].startswith("--") else BARE


def _show(value: Any) -> str:
    return "no value" if value is BARE else repr(value)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ArgumentError(f"arguments file {str(path)!r} does not exist; tried {path.absolute()}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"arguments file {path.absolute()} cannot be read: {error}") from None


def _parse_pairs(text: str, path: Path) -> list[tuple[str, Any]]:
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        place = f"{path.absolute()}, line {error.lineno}, column {error.colno}"
        raise ArgumentError(f"invalid JSON in {place}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise ArgumentError(f"invalid JSON in {path.absolute()}: {error}") from None
    if not isinstance(pairs, _Pairs):
        raise ArgumentError(f"{path.absolute()} must hold one JSON object of key: value, got {pairs!r:.60}")
    return [(key, dict(value) if isinstance(value, _Pairs) else value) for key, value in pairs]


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object in order, repetitions included."""


def _lines_of(key: str, text: str) -> list[int]:
    pattern = re.compile(rf"{re.escape(json.dumps(key, ensure_ascii=False))}\s*:")
    return [number for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
