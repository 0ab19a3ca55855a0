"""A registry of objects by name that refuses duplicates and suggests near matches."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from alignment.errors import UserError

T = TypeVar("T")


def near_matches(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'a', 'b'?`` or the empty string."""
    near = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3)
    return f"; did you mean {', '.join(map(repr, near))}?" if near else ""


class Registry(Generic[T]):
    """A mapping from name or alias to object, in order of registration."""

    def __init__(self, kind: str, error: type[UserError] = UserError) -> None:
        self.kind = kind
        self._error = error
        self._items: dict[str, T] = {}
        self._aliases: dict[str, str] = {}

    def register(self, name: str, item: T, aliases: Iterable[str] = ()) -> T:
        """Add ``item``; an empty or taken name or alias is refused. The same object may be registered twice."""
        for key in (name, *aliases):
            if not isinstance(key, str) or not key:
                raise self._error(f"{self.kind} name must be a non-empty string, got {key!r}")
            taken = self._items.get(self._aliases.get(key, key))
            if taken is not None and taken is not item:
                raise self._error(f"{self.kind} name {key!r} is already registered")
        self._items[name] = item
        self._aliases.update({alias: name for alias in aliases})
        return item

    def canonical(self, name: str) -> str:
        """Return the registered name for ``name``, which may be an alias."""
        canonical = self._aliases.get(name, name)
        if canonical not in self._items:
            known = [*self._items, *self._aliases]
            raise self._error(
                f"unknown {self.kind} {name!r}{near_matches(name, known)} "
                f"(registered: {', '.join(sorted(self._items)) or 'none'})"
            )
        return canonical

    def __getitem__(self, name: str) -> T:
        return self._items[self.canonical(name)]

    def __contains__(self, name: str) -> bool:
        return self._aliases.get(name, name) in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)
