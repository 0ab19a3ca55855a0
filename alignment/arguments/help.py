"""What ``--help`` and ``--help KEY`` print: a short list of keys by group, or all about one of them."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from alignment.arguments.coerce import describe_type
from alignment.arguments.fields import constraint_of
from alignment.arguments.reference import describe_fields, describe_meaning, show_default
from alignment.errors import ArgumentError
from alignment.registry import near_matches

HELP_FLAGS = frozenset({"--help", "-h"})
_WIDTH = 100


def show_help(groups: Mapping[str, type], argv: Sequence[str]) -> NoReturn:
    """Print the help that ``argv`` asks for and exit with status 0; an unknown key is an ArgumentError."""
    flag = next(i for i, word in enumerate(argv) if word in HELP_FLAGS)
    wanted = [word.lstrip("-").replace("-", "_") for word in argv[flag + 1 :]]
    parts = [explain_key(groups, key) for key in wanted] or [list_keys(groups, Path(sys.argv[0]).name)]
    sys.stdout.write("\n\n".join(parts) + "\n")
    raise SystemExit(0)


def list_keys(groups: Mapping[str, type], program: str) -> str:
    """Return every key once, grouped, what is required first; keys that do nothing here are only counted."""
    fields = [item for cls in groups.values() for item in dataclasses.fields(cls)]
    required = [item.name for item in fields if item.default is dataclasses.MISSING]
    parts = [
        f"usage: {program} [arguments.json | arguments.yaml] [--key value ...]    (the command line wins)\n"
        f"       {program} --help KEY    says what one key, or one group of keys, means",
        _paragraph("required", required),
    ]
    for group, cls in groups.items():
        live = [item.name for item in dataclasses.fields(cls) if not _does_nothing(item) and item.name not in required]
        if live:
            parts.append(_paragraph(group, live))
    silent = sum(map(_does_nothing, fields))
    parts.append(f"{silent} more keys of PaddleNLP's files are known; --help KEY says why each changes nothing here.")
    return "\n\n".join(parts)


def explain_key(groups: Mapping[str, type], key: str) -> str:
    """Return type, range, default and meaning of ``key`` (or of the group of that name: of all its keys)."""
    entries = dict(_entries(groups))
    if key in groups:
        return "\n\n".join(entries[item.name] for item in dataclasses.fields(groups[key]))
    if key not in entries:
        holding = ", ".join(name for name in entries if len(key) > 1 and key in name)
        near = f"; keys with {key!r} in them: {holding}" if holding else near_matches(key, entries)
        raise ArgumentError(f"--help {key}: no such key{near}; --help alone lists them all")
    return entries[key]


def _entries(groups: Mapping[str, type]) -> Iterator[tuple[str, str]]:
    """Yield every name of every key (aliases too) with its explanation."""
    for cls in groups.values():
        hints, docs = typing.get_type_hints(cls), describe_fields(cls)
        for item in dataclasses.fields(cls):
            constraint = constraint_of(item)
            head = f"{item.name}: {describe_type(hints[item.name], constraint)}; default {show_default(item.default)}"
            text = describe_meaning(docs[item.name], constraint).replace("`", "")
            body = textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")
            for name in (item.name, *constraint.aliases):
                yield name, f"{head.replace('`', '')}\n{body}"


def _does_nothing(item: dataclasses.Field) -> bool:
    return bool(constraint_of(item).no_effect or constraint_of(item).refusal)


def _paragraph(title: str, names: Sequence[str]) -> str:
    indent = "    "
    return f"{title}:\n" + textwrap.fill(
        "  ".join(names), _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
