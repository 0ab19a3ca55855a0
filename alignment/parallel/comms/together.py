"""What fails in one process fails in all, with the same message: files that several processes write together."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from alignment.errors import UserError
from alignment.parallel.comms.group import Group
from alignment.parallel.comms.guard import CommunicationError

T = TypeVar("T")


class RankFault(RuntimeError):
    """A fault of the program in another process; the message holds its traceback."""


class Attempt:
    """Work of this process between messages of all. After a failure the rest of it is skipped, while the messages go
    on, so that nobody waits for this process in vain; ``settle`` then raises it everywhere.
    """

    def __init__(self, world: Group) -> None:
        self._world = world
        self._failure: Exception | None = None

    def run(self, action: Callable[..., T], *arguments: Any) -> T | None:
        """Return ``action(*arguments)``, or None when it or an earlier action failed."""
        if self._failure is not None:
            return None
        try:
            return action(*arguments)
        except CommunicationError:
            raise
        except Exception as error:
            self._failure = error
            return None

    def settle(self) -> None:
        """Raise the failure of the first process that had one, in every process; one that is neither an OSError nor a
        UserError is a RankFault in the others.
        """
        failures = self._world.gather_objects(self._message(), "did all succeed")
        for index, failure in enumerate(failures):
            if failure is not None:
                # One's own still knows where it was raised.
                raise self._failure if index == self._world.index else failure

    def _message(self) -> Exception | None:
        """Return what the other processes raise; not every exception can travel as it is."""
        if self._failure is None or isinstance(self._failure, (OSError, UserError)):
            return self._failure
        trace = "".join(traceback.format_exception(self._failure))
        return RankFault(f"a fault in rank {self._world.ranks[self._world.index]}:\n{trace}")


def everywhere(world: Group, action: Callable[..., T], *arguments: Any) -> T:
    """Return ``action(*arguments)``, which every process calls; a failure anywhere is raised everywhere."""
    attempt = Attempt(world)
    result = attempt.run(action, *arguments)
    attempt.settle()
    return result


def on_main(world: Group, action: Callable[..., T], *arguments: Any) -> T:
    """Return what ``action(*arguments)`` returns, or raise what it raises, in the first process of ``world``."""
    attempt = Attempt(world)
    result = attempt.run(action, *arguments) if world.is_first else None
    attempt.settle()
    return world.share_object(result, 0, "what the first process found")
