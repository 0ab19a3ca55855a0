"""One value a user wrote, and the command line as a source of them (files: ``files``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

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
