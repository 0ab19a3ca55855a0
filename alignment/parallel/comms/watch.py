"""End a process that hangs in communication, and report what the others were doing."""

from __future__ import annotations

import faulthandler
import fcntl
import mmap
import os
import struct
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import Protocol

_EXIT_STATUS = 75
"""EX_TEMPFAIL of sysexits.h: try again later."""
_PERIOD_SECONDS = 0.5
_GRACE_SECONDS = 5.0
"""How long an operation may last after another process has ended: usually the transport reports that by itself."""
_SLOT = struct.Struct("<Bd800s")
_ABSENT, _BUSY, _WAITING, _FAILED = range(4)


class ActivityBoard:
    """Shared memory that shows what each process of this machine is doing, even after the process has ended.

    The processes of other machines have their own boards and are absent here.
    """

    def __init__(self, token: str, *, rank: int, world_size: int) -> None:
        """Open the board shared by all processes with the same ``token``."""
        self._rank, self._world_size = rank, world_size
        self._path = Path(tempfile.gettempdir()) / f"alignment-{token}.board"
        self._file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        os.ftruncate(self._file, _SLOT.size * world_size)
        self._slots = mmap.mmap(self._file, _SLOT.size * world_size)
        # The system releases the lock when this process ends, however it ends.
        fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)

    def hide(self) -> None:
        """Unlink the file once all processes have opened it, so that no exit leaves it behind."""
        self._path.unlink(missing_ok=True)

    def write(self, waiting: bool, now: float, text: bytes) -> None:
        """Show that at ``now`` this process began (``waiting``) or finished the operation ``text``."""
        _SLOT.pack_into(self._slots, self._rank * _SLOT.size, _WAITING if waiting else _BUSY, now, text)

    def fail(self, now: float, text: bytes) -> None:
        """Record ``text`` as the cause of this process's end."""
        _SLOT.pack_into(self._slots, self._rank * _SLOT.size, _FAILED, now, text)

    def cause(self, rank: int) -> str:
        """Return the recorded cause of the end of ``rank``, empty if it recorded none."""
        state, _, text = _SLOT.unpack_from(self._slots, rank * _SLOT.size)
        return text.rstrip(b"\0").decode("utf-8", "replace") if state == _FAILED else ""

    def gone(self, *, within: float = 0.0) -> list[int]:
        """Return the ranks of this machine whose process has ended; wait up to ``within`` seconds for the first.

        A dying process closes its connections first and releases its lock a moment later.
        """
        end = time.monotonic() + within
        while True:
            ranks = [rank for rank in range(self._world_size) if rank != self._rank and self._is_gone(rank)]
            if ranks or time.monotonic() >= end:
                return ranks
            time.sleep(0.02)

    def describe(self, now: float) -> list[str]:
        """Return one line per other process of this machine."""
        lines = []
        for rank in range(self._world_size):
            state, since, text = _SLOT.unpack_from(self._slots, rank * _SLOT.size)
            if rank == self._rank or state == _ABSENT:
                continue
            if state == _FAILED:
                lines.append(f"rank {rank}: {self.cause(rank)}")
                continue
            place, _, operation = text.rstrip(b"\0").decode("utf-8", "replace").partition("\n")
            doing = "in" if state == _WAITING else "busy on its own after"
            end = "; its process has ended" if self._is_gone(rank) else ""
            lines.append(f"{place}: {doing} {operation} for {now - since:.1f} s{end}")
        return lines

    def _is_gone(self, rank: int) -> bool:
        """Return whether the process of ``rank`` was here and has released its lock."""
        if self._slots[rank * _SLOT.size] == _ABSENT:
            return False
        try:
            # A shared lock, so that processes that ask at the same time do not take each other for the owner.
            fcntl.lockf(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, rank)
        except OSError:
            return False
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, rank)
        return True


class Task(Protocol):
    """The transport's handle of an operation that runs on a device."""

    def is_completed(self) -> bool:
        """Return whether it is done."""
        ...


def _has_ended(task: Task) -> bool:
    """Return whether ``task`` has completed or failed; its failure is raised where the host waits for the result."""
    try:
        return task.is_completed()
    except RuntimeError:
        return True


class Watch:
    """A thread that checks twice a second, and ends the process if an operation takes longer than ``limit``.

    On a device a call only queues the operation, and the host hangs later, when it waits for a result. So an operation
    with a task lasts until the task has completed. Some calls that wait for a device hold the GIL, so that this thread
    cannot run: then faulthandler's timer, which does not need the GIL, ends the process.
    """

    def __init__(self, place: str, *, limit: float) -> None:
        """``place`` names this process; ``limit`` is in seconds."""
        self.limit = limit
        self.board: ActivityBoard | None = None
        self._place = place
        self._prefix = place.encode() + b"\n"
        self._current: dict[int, tuple[str, float]] = {}
        self._queued: deque[tuple[str, float, Task]] = deque()
        """Queued operations that had not completed at the last check."""
        threading.Thread(target=self._run, name="communication watch", daemon=True).start()

    def enter(self, operation: str) -> None:
        """Start timing ``operation``, the only one of this thread."""
        self._current[threading.get_ident()] = (operation, time.monotonic())
        self._show(operation, time.monotonic(), waiting=True)

    def leave(self, operation: str, task: Task | None = None) -> None:
        """Stop timing now, or when ``task`` has completed."""
        _, since = self._current.pop(threading.get_ident())
        if task is not None and not _has_ended(task):
            self._queued.append((operation, since, task))
        elif not self._queued:
            self._show(operation, time.monotonic(), waiting=False)

    def overdue(self, now: float) -> str:
        """Return the message with which this process must end at the time ``now``, empty if it need not."""
        self._drop_completed()
        # Copied in one call, because the main thread appends meanwhile.
        queued = list(self._queued)
        going_on = [*self._current.values(), *((operation, since) for operation, since, _ in queued)]
        if not going_on:
            return ""
        operation, since = min(going_on, key=lambda item: item[1])
        if self._queued:
            self._show(operation, since, waiting=True)
        taken = now - since
        gone = self.board.gone() if self.board is not None and taken > _GRACE_SECONDS else []
        if taken <= self.limit and not gone:
            return ""
        cause = f"the process of rank {gone[0]} has ended" if gone else f"the limit is {self.limit:g} s"
        lines = self.board.describe(now) if self.board is not None else []
        others = "".join(f"\n  {line}" for line in lines) or " nothing is known here"
        return (
            f"{self._place}: {operation} has not ended after {taken:.1f} s ({cause}); this process ends. "
            f"What the others of this machine were doing:{others}\n"
        )

    def _drop_completed(self) -> None:
        """Drop queued operations that are done. Only this thread removes from the queue; others only append."""
        done = ""
        for _ in range(len(self._queued)):
            operation, since, task = self._queued.popleft()
            if _has_ended(task):
                done = operation
            else:
                self._queued.append((operation, since, task))
        if done and not self._queued and not self._current:
            self._show(done, time.monotonic(), waiting=False)

    def _show(self, operation: str, since: float, *, waiting: bool) -> None:
        if self.board is not None:
            self.board.write(waiting, since, self._prefix + operation.encode())

    def _run(self) -> None:
        is_timed = False
        while True:
            time.sleep(_PERIOD_SECONDS)
            message = self.overdue(time.monotonic())
            if message:
                # Bypass streams and exit handlers, which could block.
                os.write(2, message.encode())
                os._exit(_EXIT_STATUS)
            if self._queued:
                faulthandler.dump_traceback_later(self.limit, exit=True, file=2)
                is_timed = True
            elif is_timed:
                faulthandler.cancel_dump_traceback_later()
                is_timed = False
