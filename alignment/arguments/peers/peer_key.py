"""What answers a key of another suite."""

from __future__ import annotations

from typing import NamedTuple


class PeerKey(NamedTuple):
    """A key of other suites."""

    suites: str
    """Whose key it is."""
    ours: tuple[str, ...]
    """The keys to give instead, none for a key to leave out; the advice is for trainers that have all of them."""
    how: str = ""
    """How to convert the value; empty: the value stays the same."""

    @property
    def is_renamed(self) -> bool:
        """Whether the value is given to our first key as it is."""
        return bool(self.ours) and self.how in ("", f"give {self.ours[0]}")
