"""Print ``--help``, a list of keys by group, or ``--help KEY``, the description of one."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from alignment.arguments.coerce import describe_type
from alignment.arguments.groups import Choice, DeclaredArgument, Groups, declare, name_owners, options
from alignment.arguments.peers import presets
from alignment.arguments.reference import describe_fields, describe_meaning, show_default
from alignment.errors import ArgumentError
from alignment.registry import near_matches

HELP_FLAGS = frozenset({"--help", "-h"})
_WIDTH = 100


def show_help(groups: Groups, argv: Sequence[str]) -> NoReturn:
    """Print the requested help and exit with status 0; an unknown key is an ArgumentError."""
    flag = next(i for i, word in enumerate(argv) if word in HELP_FLAGS)
    wanted = [word.lstrip("-").replace("-", "_") for word in argv[flag + 1 :]]
    parts = [explain_key(groups, key) for key in wanted] or [list_keys(groups, _program())]
    sys.stdout.write("\n\n".join(parts) + "\n")
    raise SystemExit(0)


def _program() -> str:
    """Return how the trainer was started: its script, or ``alignment train TRAINER``."""
    name = Path(sys.argv[0]).name
    words = [word for word in sys.argv[1:3] if not word.startswith("-")]
    return " ".join(["alignment", *words]) if name in ("alignment", "__main__.py") else name


def list_keys(groups: Groups, program: str) -> str:
    """Return all keys by group, required ones first; keys without effect are only counted.

    Groups added by some choices are named after them: ``algorithm, rl_algorithm=ppo``.
    """
    slots = [slot for slot, _ in _told_once(groups)]
    parts = [
        f"usage: {program} [arguments.json | arguments.yaml] [--key value ...]    (the command line wins)\n"
        f"       {program} --help KEY    explains one key or one group of keys",
        _paragraph("required", [slot.name for slot in slots if slot.is_required and not slot.owners]),
    ]
    live = [slot for slot in slots if not _does_nothing(slot) and (slot.owners or not slot.is_required)]
    sections = dict.fromkeys((slot.group, slot.owners) for slot in live)
    for group, owners in sorted(sections, key=lambda section: (list(groups).index(section[0]), -len(section[1]))):
        names = [slot.name for slot in live if (slot.group, slot.owners) == (group, owners)]
        choice = groups[group]
        is_for_all = not isinstance(choice, Choice) or len(owners) == len(choice.options)
        parts.append(_paragraph(group if is_for_all else ", ".join([group, *owners]), names))
    silent = len({slot.name for slot in slots if _does_nothing(slot)})
    if silent:
        parts.append(f"{silent} more keys of PaddleNLP's files are accepted; --help KEY says why they have no effect.")
    return "\n\n".join(parts)


def explain_key(groups: Groups, key: str) -> str:
    """Describe type, range, default and meaning of ``key``, or of all keys of a group or of a value that adds groups
    (``grpo``).
    """
    told = _told_once(groups)
    names = [name for slot, _ in told for name in slot.names]
    wanted = [item for item in told if key in _groups(item[0])] or [item for item in told if key in item[0].names]
    if not wanted:
        holding = ", ".join(dict.fromkeys(name for name in names if len(key) > 1 and key in name))
        near = f"; keys that contain {key!r}: {holding}" if holding else near_matches(key, names)
        raise ArgumentError(f"--help {key}: no such key{near}; --help alone lists them all")
    told = [_explain(slot, meaning) for slot, meaning in wanted]
    return "\n\n".join([*told, *(map(_fill, presets.show_all()) if key == "preset" else ())])


def _fill(text: str) -> str:
    """Return a line of keys, broken between them."""
    return textwrap.fill(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _told_once(groups: Groups) -> list[tuple[DeclaredArgument, str]]:
    """Return all arguments with their meanings; equal arguments of several choices are merged."""
    docs = {(group, owners): describe_fields(cls) for group, owners, cls in options(groups)}
    told: list[tuple[DeclaredArgument, str]] = []
    for slot in declare(groups):
        meaning = docs[slot.group, slot.owners][slot.name]
        free = [(other._replace(owners=()), said) for other, said in told]
        alone = (slot._replace(owners=()), meaning)
        if alone in free:
            index = free.index(alone)
            told[index] = (slot._replace(owners=told[index][0].owners + slot.owners), meaning)
        else:
            told.append((slot, meaning))
    return told


def _explain(slot: DeclaredArgument, meaning: str) -> str:
    where = f" ({name_owners(slot.owners)})" if slot.owners else ""
    head = f"{slot.name}{where}: {describe_type(slot.hint, slot.constraint)}; default {show_default(slot.default)}"
    text = describe_meaning(meaning, slot.constraint).replace("`", "")
    body = textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{head.replace('`', '')}\n{body}"


def _groups(slot: DeclaredArgument) -> list[str]:
    """Return the names a user may give to an argument's group: its own, and the values that add it."""
    return [slot.group, *(owner.partition("=")[2] for owner in slot.owners)]


def _does_nothing(slot: DeclaredArgument) -> bool:
    return bool(slot.constraint.no_effect or slot.constraint.refusal)


def _paragraph(title: str, names: Sequence[str]) -> str:
    indent = "    "
    return f"{title}:\n" + textwrap.fill(
        "  ".join(names), _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
