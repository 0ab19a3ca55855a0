"""Ask an HTTP service for JSON, with limits on time and size, no redirects, and answers quoted in messages."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx

from alignment.errors import UserError

T = TypeVar("T")
MAX_ANSWER_BYTES = 16 * 2**20
"""The size of an answer, unless another is allowed."""
_QUOTED_CHARACTERS = 300
_PASSING_STATUSES = (408, 425, 429)
"""Statuses below 500 after which a retry may succeed."""


class ServiceError(UserError):
    """A service gave no usable answer; ``may_pass``: the same request may succeed later."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class ServiceKeys(NamedTuple):
    """The keys of an argument file that messages name."""

    address: str
    timeout: str


class _Answer(NamedTuple):
    """The answer of a service."""

    status: int
    location: str
    """The target of a redirect."""
    body: bytes


class JsonService:
    """The service at ``url``; a password in it is sent and appears in no message.

    ``timeout_seconds`` limits the whole exchange, from the connection to the last byte of the answer.
    """

    def __init__(
        self, url: str, keys: ServiceKeys, *, timeout_seconds: float, max_bytes: int = MAX_ANSWER_BYTES
    ) -> None:
        self.url, self.timeout_seconds = url, timeout_seconds
        self._keys = keys
        self._max_bytes = max_bytes
        # Loading certificates takes longer than a call, so do it once.
        self._certificates = httpx.create_ssl_context()

    @property
    def place(self) -> str:
        """The address without name and password."""
        return without_password(self.url)

    def ask(self, content: Any = None, *, wanted: Sequence[str]) -> dict[str, Any]:
        """Post ``content`` (None: get) and return the object that is answered, which has the keys ``wanted``.

        ServiceError if there is none; it may pass if there was no connection, no answer in time, a status of 500 and
        above, or an answer that is not JSON.
        """
        body = None if content is None else json.dumps(content).encode()
        try:
            answer = _run(asyncio.wait_for(self._exchange(body), self.timeout_seconds))
        except asyncio.TimeoutError as error:
            raise ServiceError(
                f"no complete answer within {self.timeout_seconds:g} s ({self._keys.timeout}, for the whole exchange)",
                may_pass=True,
            ) from error
        except httpx.InvalidURL as error:
            raise ServiceError(f"{self._keys.address}={self.place!r} is not an address: {error}") from error
        except httpx.TransportError as error:
            raise ServiceError(f"{type(error).__name__}: {_deepest_reason(error)}", may_pass=True) from error
        return self._read(answer, wanted)

    async def _exchange(self, body: bytes | None) -> _Answer:
        """Send ``body`` and read at most ``max_bytes`` of the answer; of a failure only as much as is quoted."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        method = "GET" if body is None else "POST"
        async with (
            httpx.AsyncClient(timeout=None, follow_redirects=False, verify=self._certificates) as client,
            client.stream(method, self.url, content=body, headers=headers) as answer,
        ):
            content = b""
            async for piece in answer.aiter_bytes():
                content += piece
                if not answer.is_success and len(content) > 4 * _QUOTED_CHARACTERS:
                    break
                if len(content) > self._max_bytes:
                    raise ServiceError(
                        f"the answer has more than {self._max_bytes} bytes and begins with {_quote(content)}"
                    )
            return _Answer(answer.status_code, answer.headers.get("Location", ""), content)

    def _read(self, answer: _Answer, wanted: Sequence[str]) -> dict[str, Any]:
        if 300 <= answer.status < 400:
            raise ServiceError(
                f"{self.place} answered with status {answer.status}, a redirect to {answer.location!r}. Redirects are "
                f"not followed: give the final address as {self._keys.address}"
            )
        if not 200 <= answer.status < 300:
            may_pass = answer.status >= 500 or answer.status in _PASSING_STATUSES
            said = f"{self.place} answered with status {answer.status}: {_quote(answer.body)}"
            raise ServiceError(said, may_pass=may_pass)
        try:
            content = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            said = f"{self.place} did not answer with JSON: {_quote(answer.body)}"
            raise ServiceError(said, may_pass=True) from error
        missing = [key for key in wanted if not isinstance(content, dict) or key not in content]
        if missing:
            raise ServiceError(f"{self.place} answered without {missing[0]!r}: {_quote(answer.body)}")
        return content


def without_password(url: str) -> str:
    """Return ``url`` without name and password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _quote(body: bytes) -> str:
    """Return the beginning of ``body`` as quoted text."""
    text = body.decode("utf-8", "replace")
    return repr(text[:_QUOTED_CHARACTERS]) + (" ..." if len(text) > _QUOTED_CHARACTERS else "")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``; unlike ``asyncio.run`` this never waits for an unresponsive name server."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _deepest_reason(error: BaseException) -> str:
    """Return the message with the system's reason for a failed connection, from the chain of causes."""
    seen = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
        if isinstance(seen, OSError) and seen.errno is not None and seen.errno > 0:
            return f"{error} ({os.strerror(seen.errno)})"
    return str(error) or "no reason given"
