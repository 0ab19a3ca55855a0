"""Load a user's reward function, describe its failures, and decide whether a retry may help."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alignment.errors import ArgumentError, PassingRewardError, RewardError
from alignment.rollout.rewards.text_batch import TextBatch

_NOT_USERS = (
    "<",
    str(Path(__file__).parents[2]) + os.sep,
    *(sysconfig.get_paths()[kind] + os.sep for kind in ("stdlib", "purelib", "platlib")),
)
"""File name prefixes of code that is not the user's: code without a file, this package, Python, installed packages."""
_LASTING_OS_ERRORS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


def load_function(path: str, base_dir: Path, *, key: str = "reward_function") -> Callable[..., Any]:
    """Return the function ``package.module:name`` or ``file.py:name``, found in the same way as dataset modules.

    Messages say that ``key`` names it.
    """
    from alignment.data.raw.modules import load_module  # late: scripts import this module before arguments are read

    module_name, _, name = path.rpartition(":")
    module = load_module(module_name, base_dir, kind=f"{key}={path!r}: module")
    function = getattr(module, name, None)
    if not callable(function):
        own = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise ArgumentError(
            f"{key}={path!r}: {module_name} has no function {name!r} (it has {', '.join(own[:10]) or 'none'})"
        )
    return function


def text_function(path: str, base_dir: Path, options: Mapping[str, Any]) -> Callable[[TextBatch], Any]:
    """Return the reward function ``path`` (see ``load_function``) with ``options``, as a function of a batch."""
    function = load_function(path, base_dir)

    def score(batch: TextBatch) -> Any:
        return function(batch.inputs, batch.responses, batch.labels, **options)

    return score


def describe_failure(error: BaseException) -> str:
    """Return the class and message of ``error``, and the file, line, function and source of the user's code."""
    if isinstance(error, RewardError):
        return str(error)
    said = f": {error}" if str(error) else ""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not frame.filename.startswith(_NOT_USERS)]
    if not frames:
        return f"{type(error).__name__}{said}"
    frame = (users or frames)[-1]
    line = f": {frame.line}" if frame.line else ""
    return f"{type(error).__name__}{said} ({frame.filename}, line {frame.lineno}, in {frame.name}{line})"


def may_pass(error: BaseException) -> bool:
    """Return whether the same call may succeed later.

    Built-in exceptions are bugs or calls of ``exit`` and would recur. System errors (connections, timeouts) and
    exceptions of libraries, whose services may be down, may be temporary.
    """
    if isinstance(error, RewardError):
        return isinstance(error, PassingRewardError)
    if isinstance(error, OSError):
        return not isinstance(error, _LASTING_OS_ERRORS)
    return isinstance(error, Exception) and type(error).__module__ != "builtins"
