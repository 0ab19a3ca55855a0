"""The reference of all keys as Markdown, read from the dataclasses: ``python -m alignment.arguments.reference``."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import sys
import textwrap
import typing
from collections.abc import Mapping
from typing import Any

from alignment.arguments.coerce import describe_type
from alignment.arguments.fields import Constraint, constraint_of

TRAINERS: tuple[tuple[str, str], ...] = (
    ("Supervised fine-tuning", "alignment.sft.arguments"),
    ("Reward model", "alignment.rm.arguments"),
    ("PPO", "alignment.ppo.arguments"),
)
"""Titles and modules with a ``GROUPS``. Named as text: this layer does not import the entry packages."""


def describe_fields(cls: type) -> dict[str, str]:
    """Return field name to the string that stands under the field in the source of ``cls``, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for item, below in zip(body.body, body.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and is_text:
            docs[item.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return docs


def render_trainer(title: str, groups: Mapping[str, type], seen: set[type]) -> str:
    """Return the tables of one trainer; a group that an earlier one showed (``seen``, extended here) is left out."""
    parts = [f"### {title}"]
    shared = [cls for cls in groups.values() if cls in seen]
    if shared:
        parts.append(f"Also every key of the groups above: {', '.join(group_title(cls) for cls in shared)}.")
    parts += [render_group(cls) for cls in groups.values() if cls not in seen]
    seen.update(groups.values())
    return "\n\n".join(parts)


def render_group(cls: type) -> str:
    """Return the Markdown table of one dataclass: key, type, default, meaning."""
    hints, docs = typing.get_type_hints(cls), describe_fields(cls)
    lines = [f"**{group_title(cls)}**", "", "| key | type | default | meaning |", "|---|---|---|---|"]
    for item in dataclasses.fields(cls):
        constraint = constraint_of(item)
        kind = describe_type(hints[item.name], constraint)
        meaning = describe_meaning(docs[item.name], constraint)
        cells = [f"`{item.name}`", kind, show_default(item.default), meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def group_title(cls: type) -> str:
    """Return what the group of arguments is called."""
    return cls.__name__.removesuffix("Arguments") + " arguments"


def describe_meaning(text: str, constraint: Constraint) -> str:
    """Return the text under a field with its other names, and why it does nothing or is refused."""
    if constraint.aliases:
        text += f" Also written {', '.join(f'`{alias}`' for alias in constraint.aliases)}."
    if constraint.no_effect:
        text += f" No effect here: {constraint.no_effect}."
    if constraint.refusal:
        text += f" Any other value is refused: {constraint.refusal}."
    return text


def show_default(value: Any) -> str:
    """Return a default as it is written in a file, in backquotes, or ``required``."""
    if value is dataclasses.MISSING:
        return "required"
    return f"`{','.join(map(str, value))}`" if isinstance(value, tuple) and value else f"`{_show_plain(value)}`"


def _show_plain(value: Any) -> str:
    return '""' if value == () else json.dumps(value)


def render_reference() -> str:
    """Return the reference of all trainers, a shared group only once."""
    seen: set[type] = set()
    parts = [render_trainer(title, importlib.import_module(module).GROUPS, seen) for title, module in TRAINERS]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_reference())
