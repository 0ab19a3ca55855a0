"""What every method of selection has: its parameters are the fields of a dataclass, its result is ``Selected``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Protocol

from alignment.errors import DataError
from alignment.selection.scored import Row, Scored

TIED = "tied_pair"
IDENTICAL = "identical_pair"
BELOW_MINIMUM = "below_min_reward"


class Selected(NamedTuple):
    """The rows that a method chose."""

    rows: list[Row]
    dropped: Mapping[str, Sequence[int]]
    """Reason to the indices of the prompts from which it chose nothing."""


class Method(Protocol):
    """A method of selection."""

    SUMMARY: ClassVar[str]

    def select(self, prompts: Sequence[Scored]) -> Selected:
        """Return the chosen rows in the order of the prompts; DataError if a prompt has too few responses."""
        ...


def require_responses(prompts: Sequence[Scored], least: int, name: str) -> None:
    """Refuse prompts with fewer than ``least`` responses, which ``name`` needs."""
    for item in prompts:
        if len(item.responses) < least:
            raise DataError(
                f"{item.place}: {name} needs at least {least} responses to a prompt, this one has "
                f"{len(item.responses)}: generate more (K)"
            )
