"""Which operation between processes is going on, so that a failure can name it and none lasts for ever."""

from __future__ import annotations

import re
import time

from alignment.errors import UserError
from alignment.parallel.comms.watch import ActivityBoard, Task, Watch

DEFAULT_LIMIT = 600.0
"""Seconds one operation between processes may take."""
_DYING_SECONDS = 1.0
"""How long a process may take to die after it has closed its connections."""
BOARDS: list[ActivityBoard] = []
"""The boards this process writes on: one, when it runs with others."""


class CommunicationError(UserError):
    """A message between processes failed or never came."""


class Guard:
    """Names this process and its present operation; turns failures of the transport into one message.

    An operation beyond the limit ends the process with status 75, because no exception can reach code that waits
    inside the transport.
    """

    def __init__(self, place: str, *, limit: float = DEFAULT_LIMIT) -> None:
        """``place`` says who this is, for example ``rank 3 (stage 1, tensor 0, batch 1)``; ``limit`` is in seconds."""
        self.place = place
        self.watch = Watch(place, limit=limit)

    def use(self, board: ActivityBoard) -> None:
        """Write every operation on ``board``, where the processes of this machine see it."""
        self.watch.board = board
        BOARDS.append(board)

    def during(self, operation: str) -> _Operation:
        """Return a context for one operation, for example ``all_reduce over ranks 0, 1 (gradients)``; not nested."""
        return _Operation(self, operation)


class _Operation:
    """The context of one operation."""

    __slots__ = ("_guard", "_name", "task")

    def __init__(self, guard: Guard, name: str) -> None:
        self._guard, self._name = guard, name
        self.task: Task | None = None
        """Set it where the operation goes on after the call: it then ends when the task has completed."""

    def __enter__(self) -> _Operation:
        self._guard.watch.enter(self._name)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._guard.watch.leave(self._name, self.task)
        if isinstance(error, (RuntimeError, OSError)):
            raise CommunicationError(f"{self._guard.place}: {self._name} failed: {self._explain(error)}") from error

    def _explain(self, error: BaseException) -> str:
        """Return who is missing, and the last line of the transport's message without its place in the source."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        board = self._guard.watch.board
        gone = board.gone(within=_DYING_SECONDS) if board is not None else []
        reason = re.sub(r"^\[\S*\] ", "", lines[-1])
        if not gone:
            return reason
        causes = [f"\n  rank {rank} ended with {cause}" for rank in gone if (cause := board.cause(rank))]
        return f"ended processes: rank {', rank '.join(map(str, gone))} ({reason}){''.join(causes)}"


def leave_cause(error: BaseException) -> None:
    """Let the others of this machine say what ended this process: they only see that it is gone.

    An error that is itself one of communication is no cause.
    """
    text = f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else f"error: {error}"
    if not isinstance(error, CommunicationError):
        for board in BOARDS:
            board.fail(time.monotonic(), text.encode("utf-8", "replace"))
