"""Which given keys change nothing in this run, and which cannot be honoured: said by name, never ignored in silence."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from alignment.arguments.effect_rows import ROWS, Row, Situation
from alignment.arguments.parsed import Parsed
from alignment.errors import ArgumentError
from alignment.fields import constraint_of


class Effect(NamedTuple):
    """One key that the user gave and that does not do what it says in this run."""

    key: str
    value: Any
    message: str

    def __str__(self) -> str:
        return f"{self.key}={_show(self.value)} has no effect: {self.message}"


def report_effects(parsed: Parsed, *, device: str, world_size: int) -> list[Effect]:
    """Return one ``Effect`` for each given key without one, in the order of declaration.

    ``device`` is ``cpu`` or ``gpu``, ``world_size`` the number of processes. A value that equals what happens anyway
    is no effect lost, and not listed.
    """
    situation = Situation(device, world_size, parsed.as_dict())
    never = [
        Effect(item.name, getattr(group, item.name), constraint_of(item).no_effect or "")
        for group in parsed.groups.values()
        for item in dataclasses.fields(group)
        if constraint_of(item).no_effect and getattr(group, item.name) != item.default and parsed.given(item.name)
    ]
    now = [
        Effect(row.key, situation.values[row.key], row.message) for row in _matching(parsed, situation, refuse=False)
    ]
    order = list(situation.values)
    return sorted({effect.key: effect for effect in never + now}.values(), key=lambda effect: order.index(effect.key))


def refuse_unbuilt(parsed: Parsed, *, device: str, world_size: int) -> None:
    """Raise one ArgumentError that names every value that this device and number of processes cannot honour."""
    situation = Situation(device, world_size, parsed.as_dict())
    rows = _matching(parsed, situation, refuse=True)
    problems = [f"{row.key}={_show(situation.values[row.key])} is refused: {row.message}" for row in rows]
    if problems:
        raise ArgumentError("\n  ".join([f"{len(problems)} argument(s) cannot be honoured:", *problems]))


def _matching(parsed: Parsed, situation: Situation, *, refuse: bool) -> list[Row]:
    return [
        row
        for row in ROWS
        if row.refuse == refuse
        and row.key in situation.values
        and (parsed.given(row.key) or row.even_default)
        and row.when(situation.values[row.key], situation)
    ]


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
