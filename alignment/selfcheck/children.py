"""Run trials in a child process; a trial that kills it is reported, and a new child continues."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from alignment.telemetry.exit_status import describe_exit

Trials = Iterable[tuple[str, Callable[[], None]]]
"""(name, function); an exception is a failure."""


class TrialOutcome(NamedTuple):
    """The outcome of a trial."""

    name: str
    problem: str | None
    """Why it failed, in words that follow its name; None: it passed."""


def try_in_children(make_trials: Callable[[], Trials], *, start: str, timeout: float) -> list[TrialOutcome]:
    """Run the trials that ``make_trials()`` yields and return their outcomes, in order.

    All run in one forked child. After a trial that kills the child, or takes longer than ``timeout`` seconds, the next
    child continues with the others. The call of ``make_trials`` is itself a trial, named ``start``; if it fails, no
    other is run.
    """
    outcomes: list[TrialOutcome] = []
    while True:
        names = {outcome.name for outcome in outcomes}
        child = _Child(make_trials, start, names)
        found = list(child.watch(timeout))
        outcomes += [outcome for outcome in found if outcome.name not in names]
        if child.finished:
            return outcomes
        if found[-1].name == start:
            return [*(outcome for outcome in outcomes if outcome.name != start), found[-1]]


class _Child:
    """A forked process that runs the trials not in ``done`` and reports each through a pipe."""

    def __init__(self, make_trials: Callable[[], Trials], start: str, done: set[str]) -> None:
        self.finished = False
        """Whether it has run all trials."""
        self._start = start
        self._read, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._read)
            _run_trials(make_trials, start, done, write)
        os.close(write)

    def watch(self, timeout: float) -> Iterator[TrialOutcome]:
        """Yield the reported outcomes, and finally the trial during which the child died, if any."""
        running, problem = self._start, None
        try:
            for name, message in self._messages(timeout):
                running = name
                if message is not None:
                    yield TrialOutcome(name, message or None)
                    running = self._start
        except TimeoutError:
            problem = f"did not finish within {timeout:g} s"
            os.kill(self._pid, signal.SIGKILL)
        os.close(self._read)
        _, status = os.waitpid(self._pid, 0)
        self.finished = status == 0
        if not self.finished:
            yield TrialOutcome(running, problem or describe_exit(os.waitstatus_to_exitcode(status)))

    def _messages(self, timeout: float) -> Iterator[tuple[str, str | None]]:
        """Yield (name, None) when a trial begins and (name, reason or "") when it ends; TimeoutError on silence."""
        rest = b""
        while select.select([self._read], [], [], timeout)[0]:
            received = os.read(self._read, 1 << 16)
            if not received:
                return
            *lines, rest = (rest + received).split(b"\n")
            for line in lines:
                name, message = json.loads(line)
                yield name, message
        raise TimeoutError


def _run_trials(make_trials: Callable[[], Trials], start: str, done: set[str], pipe: int) -> None:
    """In the child: report every trial before and after it, and exit with 0 at the end."""

    def tell(name: str, message: str | None) -> None:
        os.write(pipe, (json.dumps([name, message]) + "\n").encode())

    def attempt(name: str, action: Callable[[], object]) -> object:
        tell(name, None)
        try:
            result, message = action(), ""
        except Exception as error:
            result, message = None, f"failed: {type(error).__name__}: {error}"
        tell(name, message)
        return result

    status = 1
    try:
        trials = attempt(start, make_trials)
        for name, action in trials or ():
            if name not in done:
                attempt(name, action)
        status = 0
    finally:
        # Skip the parent's exit handlers and buffers.
        os._exit(status)
