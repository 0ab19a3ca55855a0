"""Run an engine in a thread of its own, which requests enter and leave."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from alignment.generation.live import Ask, Growth, RunningBatch

T = TypeVar("T")
Tell = Callable[[list["Growth | Exception"]], None]
"""Called with what is new of a request; an exception is the last."""
Post = Callable[[list[tuple[Tell, list["Growth | Exception"]]]], None]
"""Takes what is new of several requests to where their ``Tell`` is called."""


@dataclass(slots=True, eq=False)
class EngineJob:
    """A request in the thread."""

    ask: Ask
    tell: Tell
    each: bool
    """True: tell of every token; False: of whole answers."""
    begin: Callable[[], None] = lambda: None
    """Called in the thread before the first token."""
    open: int = field(init=False)
    """Number of unfinished answers."""
    held: dict[int, list[Growth]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.open = len(self.ask.prompts)

    def news(self, piece: Growth) -> Growth | None:
        """Return what to tell now that there is ``piece``; None: nothing yet."""
        self.open -= piece.finish_reason is not None
        if self.each:
            return piece
        pieces = self.held.setdefault(piece.choice, [])
        pieces.append(piece)
        return None if piece.finish_reason is None else _joined(self.held.pop(piece.choice))


def _joined(pieces: list[Growth]) -> Growth:
    return pieces[-1]._replace(
        tokens=[token for piece in pieces for token in piece.tokens],
        logprobs=[logprob for piece in pieces for logprob in piece.logprobs],
        likeliest=[likeliest for piece in pieces for likeliest in piece.likeliest],
    )


class EngineThread:
    """Owns the ``RunningBatch`` that ``open_batch`` returns; what is called here returns at once."""

    def __init__(self, open_batch: Callable[[], RunningBatch], post: Post) -> None:
        """``open_batch`` is called in the thread: at first, and after a failure."""
        self._open_batch, self._post = open_batch, post
        self._batch: RunningBatch | None = None
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._alone: deque[Callable[[], None]] = deque()
        self._waiting: deque[EngineJob] = deque()
        self._jobs: dict[Ask, EngineJob] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, job: EngineJob) -> None:
        """Answer a request."""
        self._commands.put(lambda: self._waiting.append(job))

    def cancel(self, ask: Ask) -> None:
        """Forget a request; nothing if it has ended."""
        self._commands.put(lambda: self._cancel(ask))

    def call_alone(self, work: Callable[[], T]) -> Future[T]:
        """Call ``work`` when all requests that came before have ended; those that come later wait for it."""
        future: Future[T] = Future()

        def compute() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)

        self._commands.put(lambda: self._alone.append(compute))
        return future

    def stop(self) -> None:
        """End the thread; running requests are not answered."""

        def stop() -> None:
            self._stopping = True

        self._commands.put(stop)
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            if self._jobs:
                self._step()
            elif self._alone:
                self._alone.popleft()()
            if not self._alone:
                while self._waiting:
                    self._start(self._waiting.popleft())
            self._obey(wait=not self._jobs and not self._alone and not self._waiting)

    def _obey(self, *, wait: bool) -> None:
        """Carry out all commands that have come; ``wait`` for the first."""
        try:
            while True:
                self._commands.get(block=wait)()
                wait = False
        except Empty:
            return

    def _start(self, job: EngineJob) -> None:
        try:
            self._batch = self._batch or self._open_batch()
            self._batch.submit(job.ask)
            job.begin()
        except Exception as error:  # noqa: BLE001 - it is the request's
            self._post([(job.tell, [error])])
        else:
            self._jobs[job.ask] = job

    def _cancel(self, ask: Ask) -> None:
        self._waiting = deque(job for job in self._waiting if job.ask is not ask)
        if self._jobs.pop(ask, None) is not None:
            self._batch.cancel(ask)

    def _step(self) -> None:
        try:
            pieces = self._batch.step()
        except Exception as error:  # noqa: BLE001 - all requests get it, and the next ones a new batch
            self._post([(job.tell, [error]) for job in self._jobs.values()])
            self._jobs.clear()
            self._batch = None
            return
        news: dict[EngineJob, list[Any]] = {}
        for piece in pieces:
            job = self._jobs[piece.ask]
            new = job.news(piece)
            if new is not None:
                news.setdefault(job, []).append(new)
            if not job.open:
                del self._jobs[piece.ask]
        if news:
            self._post([(job.tell, told) for job, told in news.items()])
