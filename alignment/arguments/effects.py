"""Report the given keys that have no effect in this run, and refuse those that cannot be honoured.

The conditions are part of the field declarations (``alignment.fields``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from alignment.arguments.parsed import Parsed
from alignment.errors import ArgumentError
from alignment.fields import Constraint, Situation, constraint_of, show_value


class Effect(NamedTuple):
    """A given key without effect in this run."""

    key: str
    value: Any
    message: str

    def __str__(self) -> str:
        return f"{self.key}={show_value(self.value)} has no effect: {self.message}"


def report_effects(parsed: Parsed, *, device: str, world_size: int) -> list[Effect]:
    """Return one ``Effect`` for each given key without effect, in order of declaration.

    ``device`` is ``cpu`` or ``gpu``, ``world_size`` the number of processes. Values that ask for what happens anyway
    are not listed.
    """
    situation = Situation(device, world_size, parsed.as_dict())
    effects = []
    for key, value, default, constraint in _given(parsed):
        if value is None:
            continue
        reasons = [case.why for case in constraint.inert_when if case.holds(value, situation)]
        if constraint.no_effect and value != default:
            reasons.append(constraint.no_effect)
        if reasons:
            effects.append(Effect(key, value, reasons[0]))
    return effects


def refuse_unbuilt(parsed: Parsed, *, device: str, world_size: int) -> None:
    """Raise one ArgumentError with every value that cannot be honoured on this device with these processes."""
    situation = Situation(device, world_size, parsed.as_dict())
    problems = [
        f"{key}={show_value(value)} is refused: {case.why}"
        for key, value, _, constraint in _given(parsed)
        for case in constraint.refused_when
        if case.holds(value, situation)
    ]
    if problems:
        raise ArgumentError("\n  ".join([f"{len(problems)} argument(s) cannot be honoured:", *problems]))


def _given(parsed: Parsed) -> Iterator[tuple[str, Any, Any, Constraint]]:
    """Yield (key, value, default, constraint) of every key that the user gave."""
    for group in parsed.groups.values():
        for item in dataclasses.fields(group):
            if parsed.given(item.name):
                yield item.name, getattr(group, item.name), item.default, constraint_of(item)
