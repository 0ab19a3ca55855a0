"""Read the launcher's variables, and limit the time for the processes of a run to find each other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping

from alignment.errors import UserError
from alignment.parallel.comms.guard import CommunicationError

_COUNT, _RANK, _ENDPOINT = "PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID", "PADDLE_CURRENT_ENDPOINT"
_PLACES = ("PADDLE_MASTER", "PADDLE_TRAINER_ENDPOINTS", "MASTER_ADDR")
"""Each of these says where to meet."""
_NAMES = (_COUNT, _RANK, _ENDPOINT, *_PLACES)
_ADVICE = (
    "Start several processes with python -m paddle.distributed.launch, which sets these variables; for one process "
    "unset them"
)
# Paddle holds the GIL while it waits for the others, so another process has to watch, not a thread.
_WATCHER = """
import os, sys, time
parent, seconds, message, numbers = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]
end = time.monotonic() + seconds
while time.monotonic() < end:
    if os.getppid() != parent:
        sys.exit()
    time.sleep(0.1)
os.write(2, message.encode())
for number in numbers:
    os.kill(parent, int(number))
    time.sleep(2)
"""


def read_world(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return (world size, rank) as set by ``paddle.distributed.launch``; UserError if they are wrong or incomplete."""
    size, rank = (_read_number(environment, name, default) for name, default in ((_COUNT, "1"), (_RANK, "0")))
    if size < 1 or not 0 <= rank < max(size, 1):
        raise UserError(
            f"{_describe(environment)} in the environment: {_RANK} counts the processes from 0, and {_COUNT} is their "
            f"number. {_ADVICE}"
        )
    if size == 1:
        return 1, 0
    missing = [name for name in (_RANK, _ENDPOINT) if not environment.get(name)]
    if not any(environment.get(name) for name in _PLACES):
        missing.append(" or ".join(_PLACES))
    if missing:
        raise UserError(
            f"{_describe(environment)} in the environment: this is one of {size} processes, but {', '.join(missing)} "
            f"is not set, so it cannot find the others. {_ADVICE}"
        )
    return size, rank


@contextlib.contextmanager
def meeting(place: str, *, limit: float) -> Iterator[None]:
    """Context for joining the other processes; errors inside are raised with the launcher's variables.

    After ``limit`` seconds a watcher process writes one message and ends this one by SIGALRM.
    """
    said = f"the processes of this run did not all meet. {_describe(os.environ)}. {_ADVICE}"
    message = f"error: {place}: within {limit:g} s (distributed_timeout) {said}\n"
    numbers = [str(int(number)) for number in (signal.SIGALRM, signal.SIGKILL)]
    command = [sys.executable, "-I", "-S", "-c", _WATCHER, str(os.getpid()), str(limit), message, *numbers]
    watcher = subprocess.Popen(command)
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).strip().splitlines()
        raise CommunicationError(f"{place}: {said} ({reason[-1] if reason else type(error).__name__})") from error
    finally:
        watcher.kill()
        watcher.wait()


def _read_number(environment: Mapping[str, str], name: str, default: str) -> int:
    value = environment.get(name) or default
    try:
        return int(value)
    except ValueError as error:
        raise UserError(f"{name}={value!r} in the environment is not an integer. {_ADVICE}") from error


def _describe(environment: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={environment[name]}" for name in _NAMES if name in environment)
