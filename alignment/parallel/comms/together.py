"""Run work on several processes so that a failure in one is raised in all, with the same message."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from alignment.errors import UserError
from alignment.parallel.comms.group import Group
from alignment.parallel.comms.guard import CommunicationError

T = TypeVar("T")


class RankFault(RuntimeError):
    """A bug in another process; the message holds its traceback."""


class Attempt:
    """Runs this process's share of a joint task, whose processes also exchange messages.

    After a failure the remaining actions are skipped, but the caller goes on exchanging messages, so that no process
    waits in vain; ``settle`` then raises the failure everywhere.
    """

    def __init__(self, world: Group) -> None:
        self._world = world
        self._failure: Exception | None = None

    def run(self, action: Callable[..., T], *arguments: Any) -> T | None:
        """Return ``action(*arguments)``, or None if it or an earlier action failed."""
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
        """Raise the first failed process's error in every process, in others as RankFault if it is a bug."""
        self.raise_first(self._world.gather_objects(self.failure, "did all succeed"))

    def raise_first(self, failures: Sequence[Exception | None]) -> None:
        """Raise the first of ``failures``, those of all processes in order; see ``settle``."""
        for index, failure in enumerate(failures):
            if failure is not None:
                # This process's own error still has its traceback.
                raise self._failure if index == self._world.index else failure

    @property
    def failure(self) -> Exception | None:
        """What the other processes raise, None after a success; not every exception can be pickled."""
        if self._failure is None or isinstance(self._failure, (OSError, UserError)):
            return self._failure
        trace = "".join(traceback.format_exception(self._failure))
        return RankFault(f"a fault in rank {self._world.ranks[self._world.index]}:\n{trace}")


def everywhere(world: Group, action: Callable[..., T], *arguments: Any) -> T:
    """Return ``action(*arguments)``, run in every process; a failure in one is raised in all."""
    attempt = Attempt(world)
    result = attempt.run(action, *arguments)
    attempt.settle()
    return result


def on_main(world: Group, action: Callable[..., T], *arguments: Any) -> T:
    """Run ``action(*arguments)`` in the first process of ``world``; return its result, or raise its error, in all."""
    attempt = Attempt(world)
    result = attempt.run(action, *arguments) if world.is_first else None
    attempt.settle()
    return world.share_object(result, 0, "what the first process found")
