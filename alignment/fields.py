"""Declare what a dataclass field accepts and when it has no effect, for the parser, the checks and the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field
from typing import Any, NamedTuple


class Situation(NamedTuple):
    """What decides whether a value has an effect."""

    device: str
    """``cpu`` or ``gpu``."""
    world_size: int
    """Number of processes."""
    values: Mapping[str, Any]
    """All keys of the run."""


class Case(NamedTuple):
    """A situation in which a given value has no effect, or cannot be honoured."""

    holds: Callable[[Any, Situation], bool]
    """Tells whether the case applies to the value."""
    why: str
    """The reason, following ``KEY=VALUE has no effect:`` or ``KEY=VALUE is refused:``."""
    when: str = ""
    """The situation, following ``No effect where`` in the reference (empty: ``why``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What an argument accepts besides its type."""

    minimum: float | None = None
    """Smallest allowed number."""
    maximum: float | None = None
    """Largest allowed number."""
    above: float | None = None
    """The number must be larger than this."""
    below: float | None = None
    """The number must be smaller than this."""
    excluded: tuple[Any, ...] = ()
    """Values inside the range that are not allowed."""
    aliases: tuple[str, ...] = ()
    """Names of the key in other versions of the suite."""
    spellings: Mapping[Any, Any] | None = None
    """Other ways to write a value, mapped to that value."""
    separator: str = r"[,\s]+"
    """Regular expression between the items of a list written as text."""
    keeps_repeats: bool = False
    """Whether a list keeps equal items (False: only the first)."""
    is_object: bool = False
    """Whether the value may be written as an object, which becomes JSON text."""
    path: str | None = None
    """The kind of path in the value, a key of ``paths.RESOLVERS`` (None: the value is not a path)."""
    advice: Mapping[str, str] | None = None
    """Keys of other suites that are refused, and what to write instead."""
    no_effect: str | None = None
    """Why a value other than the default has no effect (None: it has)."""
    refusal: str | None = None
    """Why a value other than the default is refused (None: it is accepted)."""
    inert_when: tuple[Case, ...] = ()
    """When a given value has no effect; the run reports the first case that applies."""
    refused_when: tuple[Case, ...] = ()
    """When a given value cannot be honoured; the run does not start."""
    meaning: str | None = None
    """The meaning of the key (None: the docstring under the field)."""


NO_CONSTRAINT = Constraint()


def argument(default: Any = MISSING, **constraint: Any) -> Any:
    """Declare a field with a ``Constraint``; without a default the argument is required.

    ``inert_when`` and ``refused_when`` take one ``Case`` or several.
    """
    for name in ("inert_when", "refused_when"):
        if isinstance(constraint.get(name), Case):
            constraint[name] = (constraint[name],)
    return field(default=default, metadata={"constraint": Constraint(**constraint)})


def inert(default: Any, why: str, **constraint: Any) -> Any:
    """Declare a key that is accepted without effect; ``default`` is what happens anyway."""
    return argument(default, no_effect=why, **constraint)


def refused(default: Any, why: str, **constraint: Any) -> Any:
    """Declare a known key that accepts only ``default``."""
    return argument(default, refusal=why, **constraint)


def constraint_of(item: Field[Any]) -> Constraint:
    """Return the constraint a field was declared with."""
    return item.metadata.get("constraint", NO_CONSTRAINT)


def where(key: str, *words: Any, why: str = "") -> Case:
    """Return the case that ``key`` has one of the values ``words``.

    A value of zero, false or null never has the case: it asks for nothing.
    """
    when = f"{key} is {_list(words)}"
    return Case(lambda value, s: value not in (None, 0) and s.values.get(key) in words, why or when, when)


def unless(key: str, *words: Any, why: str = "") -> Case:
    """Return the case that ``key`` has none of the values ``words``; a null value never has it."""
    when = f"{key} is not {_list(words)}"
    return Case(lambda value, s: value is not None and s.values.get(key) not in words, why or when, when)


def where_given(key: str, why: str = "") -> Case:
    """Return the case that ``key`` is set (a number other than 0 and -1) and replaces this key.

    A value of zero, false or null never has the case, as with ``where``.
    """

    def holds(value: Any, s: Situation) -> bool:
        return value not in (None, 0) and s.values.get(key) not in (None, 0, -1, "")

    return Case(holds, why or f"{key} is given and wins", f"{key} is given")


def show_value(value: Any) -> str:
    """Return a value as a user writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _list(words: tuple[Any, ...]) -> str:
    return " or ".join("not given" if word is None else show_value(word) for word in words)
