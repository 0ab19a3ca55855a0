"""How many answers may be in the hands of a service, and how its results are waited for."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TypeVar

from alignment.serve.answers import HttpError
from alignment.telemetry import log

T = TypeVar("T")


class Room:
    """Room for ``limit`` answers, which the options ``keys`` make; ``doing`` says in messages what is in it."""

    def __init__(self, limit: int, *, keys: str = "--max_queue", doing: str = "wait") -> None:
        self.taken = 0
        self._limit, self._keys, self._doing = limit, keys, doing

    def check(self, count: int) -> None:
        """HttpError if there is no room for ``count`` more answers."""
        if count > self._limit:
            raise HttpError(400, f"{count} answers in one request (allowed: {self._limit}, {self._keys})")
        if self.taken + count > self._limit:
            said = f"{self.taken} answers {self._doing} (allowed: {self._limit}); try again"
            raise HttpError(429, said, wait=1)

    def enter(self, count: int) -> None:
        """Take room for ``count`` answers; HttpError if there is none."""
        self.check(count)
        self.taken += count

    def leave(self, count: int) -> None:
        """Give the room of ``count`` answers back: they are answered, or not waited for."""
        self.taken -= count


async def result_of(future: Future[T], *, what: str, whose: str, seconds: float) -> T:
    """Return the result of ``future``: ``what`` the model called ``whose`` computes.

    HttpError if there is none within ``seconds``, or if computing it failed.
    """
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
    except asyncio.TimeoutError:
        raise HttpError(504, f"no {what} within {seconds:g} s (--request_timeout)") from None
    except Exception as error:
        log.warn(f"a request failed: {type(error).__name__}: {error}")
        raise HttpError(500, f"the {whose} failed: {type(error).__name__}: {error}") from None
