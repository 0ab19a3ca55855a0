"""Whatever a field declares about when it does nothing can be so, need not be so, and asks for keys that exist."""

from __future__ import annotations

import random
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union

import pytest

from alignment.arguments.groups import DeclaredArgument, declare
from alignment.fields import Case, Situation
from alignment.trainers.registered import TRAINERS

ALL = {name: declare(TRAINERS[name].groups) for name in TRAINERS}
KEYS = {slot.name for slots in ALL.values() for slot in slots}
DRAWS = 400


class Asked(dict):
    """Values that note which keys they were asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.keys_asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.keys_asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict."""
        self.keys_asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.keys_asked.add(str(key))
        return super().__contains__(key)


class Seen:
    """What a case of a key answered in runs drawn at random."""

    def __init__(self) -> None:
        self.keys_asked: set[str] = set()
        self.answers: dict[Any, set[bool]] = {}
        """The key's value to the answers of the case."""


def _samples(hint: Any) -> list[Any]:
    """Return values of an argument's type, the ordinary ones and the borders."""
    if hint is type(None):
        return [None]
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [value for member in typing.get_args(hint) for value in _samples(member)]
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return [(), *((value,) for value in _samples(typing.get_args(hint)[0]))]
    return {bool: [True, False], int: [-1, 0, 1, 2], float: [0.0, 0.5, 1.0], str: ["x"]}[hint]


def _runs(slots: list[DeclaredArgument]) -> Iterator[list[DeclaredArgument]]:
    """Yield the arguments of each kind of run that choices make."""
    owners = {owner for slot in slots for owner in slot.owners}
    yield from ([slot for slot in slots if slot.is_in([owner])] for owner in sorted(owners) or [""])


def _seen() -> dict[tuple[str, Case], Seen]:
    """Return (key, case) to what was seen of it."""
    found: dict[tuple[str, Case], Seen] = {}
    draw = random.Random(0)
    for slots in (run for trainer in ALL.values() for run in _runs(trainer)):
        cases = [(slot, case) for slot in slots for case in slot.constraint.inert_when + slot.constraint.refused_when]
        samples = {slot.name: _samples(slot.hint) for slot in slots}
        for _ in range(DRAWS):
            values = {name: draw.choice(choices) for name, choices in samples.items()}
            device, world_size = draw.choice(["cpu", "gpu"]), draw.choice([1, 8])
            for slot, case in cases:
                asked = Asked(values)
                answer = case.holds(values[slot.name], Situation(device, world_size, asked))
                seen = found.setdefault((slot.name, case), Seen())
                seen.answers.setdefault(values[slot.name], set()).add(answer)
                seen.keys_asked |= asked.keys_asked
    return found


SEEN = _seen()


@pytest.mark.parametrize(("key", "case"), SEEN, ids=[f"{key}: {case.when or case.why}" for key, case in SEEN])
def test_it_holds_in_some_runs_and_not_in_others(key, case):
    seen = SEEN[key, case]
    assert set().union(*seen.answers.values()) == {True, False}
    depends_on_the_run = {True, False} in seen.answers.values()
    assert depends_on_the_run or not seen.keys_asked, "what other keys are decides nothing"


def test_it_asks_for_keys_that_some_trainer_has():
    assert set().union(*(seen.keys_asked for seen in SEEN.values())) - KEYS == set()
