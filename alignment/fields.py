"""How a dataclass field says what it accepts; the parser, the checks and the reference table read it from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field
from typing import Any


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
    no_effect: str | None = None
    """Why a value other than the default changes nothing here (None: it does what it says)."""
    refusal: str | None = None
    """Why a value other than the default is refused (None: it is accepted)."""


NO_CONSTRAINT = Constraint()


def argument(default: Any = MISSING, **constraint: Any) -> Any:
    """Declare a field with a ``Constraint``; without a default the argument is required."""
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
