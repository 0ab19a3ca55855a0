"""Numbers with nouns for messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return the number with the noun in its form: ``1 row``, ``2 rows``, ``3 passes``."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number} {noun}{ending}"
