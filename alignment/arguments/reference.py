"""Render the reference of all keys as Markdown from the dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterable
from typing import Any

from alignment.arguments.coerce import describe_type
from alignment.arguments.groups import DeclaredArgument, Groups, declare, options
from alignment.fields import Constraint, constraint_of


def describe_fields(cls: type) -> dict[str, str]:
    """Return field name to meaning, on one line: its ``meaning``, or the docstring under the field in the source of
    ``cls`` or a base class.
    """
    docs = {item.name: constraint_of(item).meaning or "" for item in dataclasses.fields(cls)}
    for owner in () if all(docs.values()) else reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(body, ast.ClassDef)
        for item, below in zip(body.body, body.body[1:], strict=False):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and is_text:
                docs[item.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return docs


def render_trainer(title: str, groups: Groups, seen: set[type]) -> str:
    """Return the tables of one trainer, without groups in ``seen`` (which is updated) and without keys that another
    choice already describes in the same words.
    """
    slots = declare(groups)
    told: list[tuple[DeclaredArgument, str]] = []
    shown = [item for item in options(groups) if item[2] not in seen]
    shared = dict.fromkeys(group_title(cls) for _, _, cls in options(groups) if cls in seen)
    parts = [f"### {title}"]
    if shared:
        parts.append(f"Also every key of the groups above: {', '.join(shared)}.")
    for group, owners, cls in shown:
        own = [slot for slot in slots if (slot.group, slot.owners) == (group, owners)]
        docs = describe_fields(cls)
        rows = [(slot._replace(owners=()), docs[slot.name]) for slot in own]
        where = f" (`{'`, `'.join(owners)}`)" if owners else ""
        table = render_group(
            f"**{group_title(cls)}**{where}", [slot for slot, text in rows if (slot, text) not in told], cls
        )
        same = [f"`{slot.name}`" for slot, text in rows if (slot, text) in told]
        parts += [table, *([f"Also, as above: {', '.join(same)}."] if same else [])]
        told += rows
    seen.update(cls for _, _, cls in shown)
    return "\n\n".join(parts)


def render_group(title: str, slots: Iterable[DeclaredArgument], cls: type) -> str:
    """Return the Markdown table of one dataclass: key, type, default, meaning."""
    docs = describe_fields(cls)
    lines = [title, "", "| key | type | default | meaning |", "|---|---|---|---|"]
    for slot in slots:
        kind = describe_type(slot.hint, slot.constraint)
        meaning = describe_meaning(docs[slot.name], slot.constraint)
        cells = [f"`{slot.name}`", kind, show_default(slot.default), meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def group_title(cls: type) -> str:
    """Return the title of an argument group."""
    stem = cls.__name__.removesuffix("Hyperparameters")
    return f"{stem} hyperparameters" if stem != cls.__name__ else cls.__name__.removesuffix("Arguments") + " arguments"


def describe_meaning(text: str, constraint: Constraint) -> str:
    """Return the meaning of a field with its aliases, and when and why it has no effect or is refused."""
    if constraint.aliases:
        text += f" Also written {', '.join(f'`{alias}`' for alias in constraint.aliases)}."
    if constraint.no_effect:
        text += f" No effect here: {constraint.no_effect}."
    for said, cases in (("No effect", constraint.inert_when), ("Refused", constraint.refused_when)):
        if cases:
            text += f" {said} where {', or where '.join(case.when or case.why for case in cases)}."
    if constraint.refusal:
        text += f" Any other value is refused: {constraint.refusal}."
    return text


def show_default(value: Any) -> str:
    """Return a default as written in a file, in backquotes, or ``required``."""
    if value is dataclasses.MISSING:
        return "required"
    return f"`{','.join(map(str, value))}`" if isinstance(value, tuple) and value else f"`{_show_plain(value)}`"


def _show_plain(value: Any) -> str:
    return '""' if value == () else json.dumps(value)


def render_reference(trainers: Iterable[tuple[str, Groups]]) -> str:
    """Return the reference of all ``trainers``, given as (title, groups); shared groups appear once."""
    seen: set[type] = set()
    return "\n\n".join(render_trainer(title, groups, seen) for title, groups in trainers) + "\n"
