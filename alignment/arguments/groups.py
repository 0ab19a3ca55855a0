"""The groups of arguments of a trainer: dataclasses that every run has, and those that the value of a key chooses."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from alignment.fields import Constraint, constraint_of


@dataclass(frozen=True)
class Choice:
    """Groups of which the value of ``key`` adds one to a run: ``rl_algorithm=ppo`` adds PPO's hyperparameters.

    ``key`` is a text field of a group that every run has. Several choices may hang on one key; they name the same
    values. Two options may declare the same argument, each with its own default and range.
    """

    key: str
    options: Mapping[str, type | None]
    """Value of ``key`` to the group that it adds; None: a known value that adds none."""


Groups = Mapping[str, type | Choice]
"""Group name to a dataclass, or to a choice among dataclasses."""


class DeclaredArgument(NamedTuple):
    """One declared argument."""

    group: str
    """Name of its group, as in ``Groups``."""
    name: str
    hint: Any
    default: Any
    constraint: Constraint
    owners: tuple[str, ...] = ()
    """The choices that add it, such as ``rl_algorithm=ppo``; empty: every run has it."""

    @property
    def is_required(self) -> bool:
        """Whether a run must give it."""
        return self.default is dataclasses.MISSING

    @property
    def names(self) -> tuple[str, ...]:
        """Its key and the aliases of that."""
        return (self.name, *self.constraint.aliases)

    def is_in(self, run: Collection[str]) -> bool:
        """Return whether a run with these choices has it."""
        return not self.owners or not set(run).isdisjoint(self.owners)


class Option(NamedTuple):
    """One dataclass that some run may have."""

    group: str
    owners: tuple[str, ...]
    """As in ``DeclaredArgument``."""
    cls: type


def choosing_keys(groups: Groups) -> dict[str, list[str]]:
    """Return every key that chooses groups, and the values it may have."""
    found: dict[str, list[str]] = {}
    for item in groups.values():
        if isinstance(item, Choice):
            values = list(item.options)
            assert found.setdefault(item.key, values) == values, f"choices of {item.key} name different values"
    return found


def options(groups: Groups) -> list[Option]:
    """Return everything that some run may have, a dataclass that several values add only once."""
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
    """Return the groups of one run; ``chosen`` is the value of each choosing key (None: not known, it adds none)."""
    plain = {name: item for name, item in groups.items() if not isinstance(item, Choice)}
    added = {n: item.options.get(chosen[item.key]) for n, item in groups.items() if isinstance(item, Choice)}
    return {name: plain.get(name) or added[name] for name in groups if plain.get(name) or added[name]}


def declare(groups: Groups) -> list[DeclaredArgument]:
    """Return every argument that some run may have, those of each option one after the other.

    One key in two groups of a run, or a taken alias, is a programmer's mistake.
    """
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
