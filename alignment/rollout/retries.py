"""Call something that may fail for a while again, with growing pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from alignment.errors import UserError
from alignment.parallel.comms.stop_signals import Interrupted
from alignment.telemetry import log

T = TypeVar("T")
LONGEST_PAUSE = 60.0
"""The longest pause between tries in seconds."""


class RetryPolicy(Protocol):
    """How often something is called again."""

    @property
    def retries(self) -> int:
        """Calls after the first."""
        ...

    @property
    def backoff_seconds(self) -> float:
        """The pause before the second call; each further one is twice as long."""
        ...


def retry(
    action: Callable[[], T],
    name: str,
    policy: RetryPolicy,
    *,
    may_pass: Callable[[BaseException], bool],
    describe: Callable[[BaseException], str] = str,
    catches: type[BaseException] = BaseException,
    error: type[UserError] = UserError,
) -> T:
    """Return the result of ``action``, called again after a failure that ``may_pass``, as often as ``policy`` says.

    ``error`` tells the last failure and names ``name``. What ``catches`` is not, and a signal to stop, is raised as it
    is.
    """
    tries = policy.retries + 1
    for attempt in range(1, tries + 1):
        try:
            return action()
        except (Interrupted, KeyboardInterrupt):
            raise
        except catches as caught:
            failure = caught
        if attempt == tries or not may_pass(failure):
            break
        log.warn(f"{name} failed ({describe(failure)}); try {attempt + 1} of {tries}")
        time.sleep(min(LONGEST_PAUSE, policy.backoff_seconds * 2 ** (attempt - 1)))
    how_often = "failed" if attempt == 1 else f"failed {attempt} times, last"
    hint = "" if attempt == tries else ". It was not tried again, because the same call would fail again"
    raise error(f"{name} {how_often}: {describe(failure)}{hint}") from failure
