"""Handle signals that ask a run to stop (SIGTERM, Ctrl-C): finish the current update first."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """A signal ends this run. Not an Exception, so that no handler takes it for a failure."""

    def __init__(self, number: int, said: str = "", *, agreed: bool = False) -> None:
        """``said`` is the line for the user; ``agreed``: every process of the run stops at this same point."""
        super().__init__(said)
        self.number = number
        self.agreed = agreed

    @property
    def status(self) -> int:
        """The exit status by shell convention: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.number

    def __str__(self) -> str:
        return self.args[0] or f"ended by {signal.Signals(self.number).name}"


class StopSignals:
    """Receives the signals that ask this process to stop.

    Inside ``caught`` a signal raises Interrupted. Inside ``deferred`` it is only recorded in ``number``, and the code
    that checks it ends the run. A second Ctrl-C ends the run at once; a repeated SIGTERM has no effect, because
    launchers send several.
    """

    def __init__(self) -> None:
        self.number = 0
        """The recorded signal; 0: none."""
        self._until = ""
        """What is finished before a recorded signal takes effect; empty: signals are not deferred."""
        self._is_caught = False
        self._is_ending = False
        self._process = os.getpid()

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Handle signals inside, then restore the previous handlers; no effect outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        self._is_caught = True
        try:
            yield
        finally:
            self._is_caught = False
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    @contextlib.contextmanager
    def deferred(self, until: str) -> Iterator[None]:
        """Only record signals inside; the message for the user says that ``until`` will be finished first."""
        self._until = until
        self._break_system_calls(False)
        try:
            yield
        finally:
            self._until = ""
            self._break_system_calls(True)

    def _break_system_calls(self, wanted: bool) -> None:
        """Set whether a signal interrupts a blocking system call, which Paddle's stores take for a lost connection."""
        if self._is_caught:
            for number in _SIGNALS:
                signal.siginterrupt(number, wanted)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked child inherits this handler, but its parent's signal must simply end it.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self._is_ending:
            return
        if not self._until or (number == signal.SIGINT and self.number == signal.SIGINT):
            self._is_ending = True
            raise Interrupted(number)
        if not self.number:
            self.number = number
            again = "; press Ctrl-C again to end at once" if number == signal.SIGINT else ""
            # os.write, as print is not reentrant and the signal may have interrupted one.
            os.write(2, f"{signal.Signals(number).name}: {self._until} will be finished first{again}\n".encode())
