"""The argument groups of a trainer: dataclasses that every run has, and those chosen by the value of a key."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from alignment.fields import Constraint, constraint_of


@dataclass(frozen=True)
class Choice:
    """A choice of groups by the value of ``key``: ``rl_algorithm=ppo`` adds PPO's hyperparameters.

    ``key`` is a text field of a group that every run has. Several choices may depend on one key, with the same values.
    Options may declare the same argument with different defaults and ranges.
    """

    key: str
    options: Mapping[str, type | None]
    """Value of ``key`` to the group that it adds, or None."""


Groups = Mapping[str, type | Choice]
"""Group name to a dataclass, or to a choice among dataclasses."""


class DeclaredArgument(NamedTuple):
    """A declared argument."""

    group: str
    """Name of its group, as in ``Groups``."""
    name: str
    hint: Any
    default: Any
    constraint: Constraint
    owners: tuple[str, ...] = ()
    """The choices that add it, such as ``rl_algorithm=ppo``; empty: it is in every run."""

    @property
    def is_required(self) -> bool:
        """Whether it must be given."""
        return self.default is dataclasses.MISSING

    @property
    def names(self) -> tuple[str, ...]:
        """Its key and aliases."""
        return (self.name, *self.constraint.aliases)

    def is_in(self, run: Collection[str]) -> bool:
        """Tell whether a run with these choices has it."""
        return not self.owners or not set(run).isdisjoint(self.owners)


class Option(NamedTuple):
    """A dataclass that a run may have."""

    group: str
    owners: tuple[str, ...]
    """As in ``DeclaredArgument``."""
    cls: type


def name_owners(owners: Collection[str]) -> str:
    """Return owners as text: ``rl_algorithm=grpo, dr_grpo or sapo``."""
    *others, last = dict.fromkeys(owners)
    values = [owner.partition("=")[2] for owner in others[1:]]
    return f"{', '.join([others[0], *values])} or {last.partition('=')[2]}" if others else last


def choosing_keys(groups: Groups) -> dict[str, list[str]]:
    """Return every key that chooses groups, with its values."""
    found: dict[str, list[str]] = {}
    for item in groups.values():
        if isinstance(item, Choice):
            values = list(item.options)
            assert found.setdefault(item.key, values) == values, f"choices of {item.key} name different values"
    return found


def options(groups: Groups) -> list[Option]:
    """Return all dataclasses that a run may have; one added by several values is listed once."""
    found = []
    for name, item in groups.items():
        if not isinstance(item, Choice):
            found.append(Option(name, (), item))
            continue
        for cls in dict.fromkeys(cls for cls in item.options.values() if cls is not None):
            owners = tuple(f"{item.key}={value}" for value, other in item.options.items() if other is cls)
            found.append(Option(name, owners, cls))
    return found


def resolve(groups: Groups, chosen: Mapping[str, str | None]) -> dict[str, type]:
    """Return the groups of one run; ``chosen`` is the value of each choosing key (None: unknown, adds no group)."""
    plain = {name: item for name, item in groups.items() if not isinstance(item, Choice)}
    added = {n: item.options.get(chosen[item.key]) for n, item in groups.items() if isinstance(item, Choice)}
    return {name: plain.get(name) or added[name] for name in groups if plain.get(name) or added[name]}


def declare(groups: Groups) -> list[DeclaredArgument]:
    """Return all arguments that a run may have, option by option; duplicate names within a run are a bug."""
    choosing = choosing_keys(groups)
    slots = []
    for group, owners, cls in options(groups):
        hints = typing.get_type_hints(cls)
        for item in dataclasses.fields(cls):
            hint = Literal[tuple(choosing[item.name])] if item.name in choosing else hints[item.name]
            slots.append(DeclaredArgument(group, item.name, hint, item.default, constraint_of(item), owners))
    every = {slot.name for slot in slots if not slot.owners}
    assert set(choosing) <= every, f"not every run has the choosing keys {', '.join(set(choosing) - every)}"
    for owner in {"", *(owner for slot in slots for owner in slot.owners)}:
        _check_names([slot for slot in slots if slot.is_in([owner])])
    return slots


def _check_names(slots: list[DeclaredArgument]) -> None:
    keys = [slot.name for slot in slots]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    assert not twice, f"argument {', '.join(map(repr, twice))} belongs to two groups"
    names = [name for slot in slots for name in slot.names]
    assert len(names) == len(set(names)), (
        f"argument names used twice: {sorted({name for name in names if names.count(name) > 1})}"
    )
