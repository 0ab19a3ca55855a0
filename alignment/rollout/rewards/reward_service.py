"""Get rewards from an HTTP service, with limits on time and size, no redirects, and answers quoted in messages."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

import httpx

from alignment.errors import PassingRewardError, RewardError
from alignment.rollout.rewards.text_batch import TextBatch

T = TypeVar("T")
MAX_ANSWER_BYTES = 16 * 2**20
"""A score takes about 20 bytes; a larger answer is not a list of scores."""
_QUOTED_CHARACTERS = 300
_PASSING_STATUSES = (408, 425, 429)
"""Statuses below 500 after which a retry may succeed."""


class _Answer(NamedTuple):
    """The answer of a service."""

    status: int
    location: str
    """The target of a redirect."""
    body: bytes


class HttpReward:
    """Posts JSON lists ``{"src", "tgt", "response"}`` and reads ``{"score": [...]}``, as the reference suite does.

    ``timeout_seconds`` limits the whole exchange, from the connection to the last byte of the answer. Raises
    PassingRewardError if a retry may help (no connection, no answer in time, a status of 500 and above, an answer that
    is not JSON), otherwise RewardError.
    """

    def __init__(self, url: str, *, timeout_seconds: float, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._url = url
        self._timeout = timeout_seconds
        self._max_bytes = max_bytes
        # Loading certificates takes longer than a call, so do it once.
        self._certificates = httpx.create_ssl_context()

    def __call__(self, batch: TextBatch) -> Any:
        """Return the ``score`` value of the service's answer."""
        body = json.dumps({"src": batch.inputs, "tgt": batch.labels, "response": batch.responses}).encode()
        try:
            answer = _run(asyncio.wait_for(self._post(body), self._timeout))
        except asyncio.TimeoutError as error:
            raise PassingRewardError(
                f"no complete answer within {self._timeout:g} s (reward_timeout, for the whole exchange)"
            ) from error
        except httpx.InvalidURL as error:
            raise RewardError(f"reward_server={self._url!r} is not an address: {error}") from error
        except httpx.TransportError as error:
            raise PassingRewardError(f"{type(error).__name__}: {_deepest_reason(error)}") from error
        return self._read_scores(answer)

    async def _post(self, body: bytes) -> _Answer:
        """Send ``body`` and read at most ``max_bytes`` of the answer; of a failure only as much as is quoted."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        async with (
            httpx.AsyncClient(timeout=None, follow_redirects=False, verify=self._certificates) as client,
            client.stream("POST", self._url, content=body, headers=headers) as answer,
        ):
            content = b""
            async for piece in answer.aiter_bytes():
                content += piece
                if not answer.is_success and len(content) > 4 * _QUOTED_CHARACTERS:
                    break
                if len(content) > self._max_bytes:
                    raise RewardError(
                        f"the answer has more than {self._max_bytes} bytes and begins with {_quote(content)}"
                    )
            return _Answer(answer.status_code, answer.headers.get("Location", ""), content)

    def _read_scores(self, answer: _Answer) -> Any:
        if 300 <= answer.status < 400:
            raise RewardError(
                f"{self._url} answered with status {answer.status}, a redirect to {answer.location!r}. Redirects are "
                "not followed: give the final address as reward_server"
            )
        if not 200 <= answer.status < 300:
            passes = answer.status >= 500 or answer.status in _PASSING_STATUSES
            raise (PassingRewardError if passes else RewardError)(
                f"{self._url} answered with status {answer.status}: {_quote(answer.body)}"
            )
        try:
            content = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise PassingRewardError(f"{self._url} did not answer with JSON: {_quote(answer.body)}") from error
        if not isinstance(content, dict) or "score" not in content:
            raise RewardError(f"{self._url} answered without 'score': {_quote(answer.body)}")
        return content["score"]


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``; unlike ``asyncio.run`` this never waits for an unresponsive name server."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _quote(body: bytes) -> str:
    """Return the beginning of ``body`` as quoted text."""
    text = body.decode("utf-8", "replace")
    return repr(text[:_QUOTED_CHARACTERS]) + (" ..." if len(text) > _QUOTED_CHARACTERS else "")


def _deepest_reason(error: BaseException) -> str:
    """Return the message with the system's reason for a failed connection, from the chain of causes."""
    seen = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
        if isinstance(seen, OSError) and seen.errno is not None and seen.errno > 0:
            return f"{error} ({os.strerror(seen.errno)})"
    return str(error) or "no reason given"
