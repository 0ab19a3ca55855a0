"""Signals that ask a run to end (SIGTERM, Ctrl-C): noted while it trains, acted on when the update has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """A signal ends this run. No Exception, so that nothing on the way takes it for a failure of its own."""

    def __init__(self, number: int, said: str = "", *, agreed: bool = False) -> None:
        """``said`` is the one line for the user; ``agreed``: every process of the run ends at this same place."""
        super().__init__(said)
        self.number = number
        self.agreed = agreed

    @property
    def status(self) -> int:
        """The exit status that shells give a process which a signal has ended: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.number

    def __str__(self) -> str:
        return self.args[0] or f"ended by {signal.Signals(self.number).name}"


class StopSignals:
    """What this process was asked for by signals.

    Inside ``caught`` a signal raises Interrupted. Inside ``deferred`` it is only noted: ``number`` says which it was,
    and whoever looks there ends the run. A second Ctrl-C ends it at once; a repeated SIGTERM changes nothing, because
    launchers send several.
    """

    def __init__(self) -> None:
        self.number = 0
        """The signal that was noted; 0: none."""
        self._until = ""
        """What is finished before a noted signal counts; empty: nothing is."""
        self._is_caught = False
        self._is_ending = False
        self._process = os.getpid()

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Take the signals inside, and put the handlers of before back; only the main thread can."""
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
        """Only note signals inside, and say that ``until`` is finished first."""
        self._until = until
        self._break_system_calls(False)
        try:
            yield
        finally:
            self._until = ""
            self._break_system_calls(True)

    def _break_system_calls(self, wanted: bool) -> None:
        """Say whether a signal ends a system call that waits, which Paddle's stores take for a lost connection."""
        if self._is_caught:
            for number in _SIGNALS:
                signal.siginterrupt(number, wanted)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A child that was forked inherits this: its parent wants it to end.
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
            # Not print: the signal may have come in the middle of one.
            os.write(2, f"{signal.Signals(number).name}: {self._until} will be finished first{again}\n".encode())
