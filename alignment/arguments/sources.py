"""Read the values a user gave on the command line or in a Python call (files: ``files``)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_REMARK = re.compile(r"_|//|#|comments?(?![a-z])", re.IGNORECASE)
"""Matches keys that are comments: ``_old_model``, ``comment-why``, ``//``."""
BARE = object()
"""The value of a bare ``--flag``: true for a true/false argument, an error for any other."""


class Given(NamedTuple):
    """A value given by the user."""

    key: str
    value: Any
    origin: str
    """``file``, ``command line`` or ``Python call``."""
    place: str
    """Where it was given, for messages."""


class NestedKeys(NamedTuple):
    """An object within an argument file, which holds the arguments of something of its own."""

    keys: Mapping[str, Any]
    place: str
    """Where it stands, for messages."""
    base_dir: Path
    """The folder of the file, in which its paths are looked up first."""


class Source(NamedTuple):
    """The values and problems of one source."""

    given: list[Given]
    problems: list[str]


def is_remark(key: str) -> bool:
    """Tell whether a key of a file or call is a comment, which is ignored."""
    return _REMARK.match(key) is not None


def read_section(section: NestedKeys) -> Source:
    """Read an object within a file."""
    items = [(key, value) for key, value in section.keys.items() if not is_remark(key)]
    return Source([Given(key, value, "file", section.place) for key, value in items], [])


def read_call(arguments: Mapping[str, Any]) -> Source:
    """Read the arguments of a Python call: the keys of an argument file; paths may be ``Path``, lists tuples."""
    items = [(str(key), value) for key, value in arguments.items() if not is_remark(str(key))]
    problems = [
        f"{key}: a Python function cannot be given itself ({value!r}); pass the function by name, as "
        "'file.py:function' or 'package.module:function'"
        for key, value in items
        if inspect.isroutine(value)
    ]
    plain = [(key, _plain(value)) for key, value in items if not inspect.isroutine(value)]
    return Source([Given(key, value, "Python call", "in the call from Python") for key, value in plain], problems)


def _plain(value: Any) -> Any:
    """Return a value as it would be in a file."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


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
