"""How a dataclass field says what it accepts, and when it does nothing; the parser, the checks and the reference table
read it from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field
from typing import Any, NamedTuple


class Situation(NamedTuple):
    """What decides whether a value has its effect."""

    device: str
    """``cpu`` or ``gpu``."""
    world_size: int
    """Number of processes."""
    values: Mapping[str, Any]
    """Every key of the run."""


class Case(NamedTuple):
    """A situation in which a given value does nothing, or cannot be honoured."""

    holds: Callable[[Any, Situation], bool]
    """Whether it is so for the value."""
    why: str
    """The reason, to stand after ``KEY=VALUE has no effect:`` or ``KEY=VALUE is refused:``."""
    when: str = ""
    """The situation in words, to stand after ``No effect where`` in the reference (empty: ``why`` says it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What one argument accepts beyond its type."""

    minimum: float | None = None
    """Smallest allowed number."""
    maximum: float | None = None
    """Largest allowed number."""
    above: float | None = None
    """The number must be larger than this."""
    below: float | None = None
    """The number must be smaller than this."""
    excluded: tuple[Any, ...] = ()
    """Values inside the range that mean nothing."""
    aliases: tuple[str, ...] = ()
    """Other names of the key, as other versions of the suite call it."""
    spellings: Mapping[Any, Any] | None = None
    """Other ways to write a value, and the value they stand for."""
    separator: str = r"[,\s]+"
    """Regular expression between the items of a list written as text."""
    path: str | None = None
    """What a relative path in the value names, a key of ``paths.RESOLVERS`` (None: the value is no path)."""
    advice: Mapping[str, str] | None = None
    """Keys of other suites that are refused, and what to write instead."""
    no_effect: str | None = None
    """Why a value other than the default changes nothing here (None: it does what it says)."""
    refusal: str | None = None
    """Why a value other than the default is refused (None: it is accepted)."""
    inert_when: tuple[Case, ...] = ()
    """When a given value does nothing; the run tells the first case that holds."""
    refused_when: tuple[Case, ...] = ()
    """When a given value cannot be honoured; the run does not start."""
    meaning: str | None = None
    """What the key means (None: it stands under the field in the source)."""


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
    """Declare a key that is accepted but changes nothing here; ``default`` is what happens anyway."""
    return argument(default, no_effect=why, **constraint)


def refused(default: Any, why: str, **constraint: Any) -> Any:
    """Declare a known key of which only ``default`` can be honoured."""
    return argument(default, refusal=why, **constraint)


def constraint_of(item: Field[Any]) -> Constraint:
    """Return the constraint a field was declared with."""
    return item.metadata.get("constraint", NO_CONSTRAINT)


def where(key: str, *words: Any, why: str = "") -> Case:
    """The case that ``key`` has one of the values ``words``.

    A zero, false or null does not count as given: it asks for nothing, and so loses nothing.
    """
    when = f"{key} is {_list(words)}"
    return Case(lambda value, s: value not in (None, 0) and s.values.get(key) in words, why or when, when)


def unless(key: str, *words: Any, why: str = "") -> Case:
    """The case that ``key`` has none of the values ``words``; null does not count as given."""
    when = f"{key} is not {_list(words)}"
    return Case(lambda value, s: value is not None and s.values.get(key) not in words, why or when, when)


def where_given(key: str, why: str = "") -> Case:
    """The case that ``key`` holds something (a number other than 0 and -1) and takes the place of this one.

    A zero, false or null of this one does not count as given, as with ``where``.
    """

    def holds(value: Any, s: Situation) -> bool:
        return value not in (None, 0) and s.values.get(key) not in (None, 0, -1, "")

    return Case(holds, why or f"{key} is given and wins", f"{key} is given")


def show_value(value: Any) -> str:
    """Return a value as a user writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _list(words: tuple[Any, ...]) -> str:
    return " or ".join("not given" if word is None else show_value(word) for word in words)
