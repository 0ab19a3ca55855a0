"""What ``--help`` and ``--help KEY`` print: a short list of keys by group, or all about one of them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from alignment.arguments.coerce import describe_type
from alignment.arguments.groups import Groups, Slot, declare, options
from alignment.arguments.reference import describe_fields, describe_meaning, show_default
from alignment.errors import ArgumentError
from alignment.registry import near_matches

HELP_FLAGS = frozenset({"--help", "-h"})
_WIDTH = 100


def show_help(groups: Groups, argv: Sequence[str]) -> NoReturn:
    """Print the help that ``argv`` asks for and exit with status 0; an unknown key is an ArgumentError."""
    flag = next(i for i, word in enumerate(argv) if word in HELP_FLAGS)
    wanted = [word.lstrip("-").replace("-", "_") for word in argv[flag + 1 :]]
    parts = [explain_key(groups, key) for key in wanted] or [list_keys(groups, Path(sys.argv[0]).name)]
    sys.stdout.write("\n\n".join(parts) + "\n")
    raise SystemExit(0)


def list_keys(groups: Groups, program: str) -> str:
    """Return every key, grouped, what is required first; keys that do nothing here are only counted.

    A group that a choice adds is called after it: ``algorithm, rl_algorithm=ppo``.
    """
    slots = declare(groups)
    parts = [
        f"usage: {program} [arguments.json | arguments.yaml] [--key value ...]    (the command line wins)\n"
        f"       {program} --help KEY    says what one key, or one group of keys, means",
        _paragraph("required", [slot.name for slot in slots if slot.is_required and not slot.owners]),
    ]
    for group, owners, _ in options(groups):
        own = [slot for slot in slots if (slot.group, slot.owners) == (group, owners) and not _does_nothing(slot)]
        if live := [slot.name for slot in own if owners or not slot.is_required]:
            parts.append(_paragraph(", ".join([group, *owners]), live))
    silent = len({slot.name for slot in slots if _does_nothing(slot)})
    parts.append(f"{silent} more keys of PaddleNLP's files are known; --help KEY says why each changes nothing here.")
    return "\n\n".join(parts)


def explain_key(groups: Groups, key: str) -> str:
    """Return type, range, default and meaning of ``key``; of the name of a group, or of a value that adds groups
    (``grpo``): those of all its keys.
    """
    entries = _entries(groups)
    names = [name for slot, _ in entries for name in slot.names]
    texts = [text for slot, text in entries if key in _groups(slot)]
    texts = texts or [text for slot, text in entries if key in slot.names]
    if not texts:
        holding = ", ".join(dict.fromkeys(name for name in names if len(key) > 1 and key in name))
        near = f"; keys with {key!r} in them: {holding}" if holding else near_matches(key, names)
        raise ArgumentError(f"--help {key}: no such key{near}; --help alone lists them all")
    return "\n\n".join(texts)


def _entries(groups: Groups) -> list[tuple[Slot, str]]:
    """Return every argument with its explanation."""
    docs = {(group, owners): describe_fields(cls) for group, owners, cls in options(groups)}
    return [(slot, _explain(slot, docs[slot.group, slot.owners][slot.name])) for slot in declare(groups)]


def _explain(slot: Slot, meaning: str) -> str:
    where = f" ({' or '.join(slot.owners)})" if slot.owners else ""
    head = f"{slot.name}{where}: {describe_type(slot.hint, slot.constraint)}; default {show_default(slot.default)}"
    text = describe_meaning(meaning, slot.constraint).replace("`", "")
    body = textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{head.replace('`', '')}\n{body}"


def _groups(slot: Slot) -> list[str]:
    """Return what a user may call the group of an argument: its name, and the values that add it."""
    return [slot.group, *(owner.partition("=")[2] for owner in slot.owners)]


def _does_nothing(slot: Slot) -> bool:
    return bool(slot.constraint.no_effect or slot.constraint.refusal)


def _paragraph(title: str, names: Sequence[str]) -> str:
    indent = "    "
    return f"{title}:\n" + textwrap.fill(
        "  ".join(names), _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
