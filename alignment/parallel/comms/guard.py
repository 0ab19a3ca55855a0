"""Track the current communication operation, so that failures name it and none hangs forever."""

from __future__ import annotations

import re
import time

from alignment.errors import UserError
from alignment.parallel.comms.watch import ActivityBoard, Task, Watch

DEFAULT_LIMIT = 600.0
"""Default limit in seconds for one operation between processes."""
_DYING_SECONDS = 1.0
"""How long a process may take to end after closing its connections."""


class CommunicationError(UserError):
    """Communication between processes failed or timed out."""


class Guard:
    """Tracks this process's current operation and turns failures of the transport into one message.

    If an operation exceeds the limit, the process exits with status 75, because no exception can reach code that is
    blocked inside the transport.
    """

    def __init__(self, place: str, *, limit: float = DEFAULT_LIMIT) -> None:
        """``place`` names this process, such as ``rank 3 (stage 1, tensor 0, batch 1)``; ``limit`` is in seconds."""
        self.place = place
        self.watch = Watch(place, limit=limit)

    def use(self, board: ActivityBoard) -> None:
        """Show every operation on ``board``, where the other processes of this machine can read it."""
        self.watch.board = board
        GUARDS.append(self)

    def during(self, operation: str) -> _Operation:
        """Return a context for one operation such as ``all_reduce over ranks 0, 1 (gradients)``; do not nest them."""
        return _Operation(self, operation)


class _Operation:
    """The context of one operation."""

    __slots__ = ("_guard", "_name", "task")

    def __init__(self, guard: Guard, name: str) -> None:
        self._guard, self._name = guard, name
        self.task: Task | None = None
        """Set this if the operation continues after the call: it then lasts until the task has completed."""

    def __enter__(self) -> _Operation:
        self._guard.watch.enter(self._name)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._guard.watch.leave(self._name, self.task)
        if isinstance(error, (RuntimeError, OSError)):
            raise CommunicationError(f"{self._guard.place}: {self._name} failed: {self._explain(error)}") from error

    def _explain(self, error: BaseException) -> str:
        """Return which ranks have ended, and the last line of the transport's message without its source location."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        board = self._guard.watch.board
        gone = board.gone(within=_DYING_SECONDS) if board is not None else []
        reason = re.sub(r"^\[\S*\] ", "", lines[-1])
        if not gone:
            return reason
        causes = [f"\n  rank {rank} ended with {cause}" for rank in gone if (cause := board.cause(rank))]
        return f"ended processes: rank {', rank '.join(map(str, gone))} ({reason}){''.join(causes)}"


GUARDS: list[Guard] = []
"""The guards whose boards this process shares: one if it runs with others."""


def leave_cause(error: BaseException) -> None:
    """Record on the boards what ended this process, so that the others of this machine can report it.

    A communication error is not recorded: it is a consequence.
    """
    text = f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else f"error: {error}"
    if not isinstance(error, CommunicationError):
        for guard in GUARDS:
            guard.watch.board.fail(time.monotonic(), text.encode("utf-8", "replace"))
