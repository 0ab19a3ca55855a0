"""Failures of a user's reward code: where they happened, and whether another try could help."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

from alignment.errors import PassingRewardError, RewardError

_NOT_USERS = (
    "<",
    str(Path(__file__).parents[2]) + os.sep,
    *(sysconfig.get_paths()[kind] + os.sep for kind in ("stdlib", "purelib", "platlib")),
)
"""How file names of code begin that is not the user's own: no file at all, this package, Python, what is installed."""
_LASTING_OS_ERRORS = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


def describe_failure(error: BaseException) -> str:
    """Return what failed and where: class, message, file, line, function and the text of the line."""
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

    Python's own exceptions are mistakes in the code, and calls of ``exit``: they come back. Failures of the system
    (connections, timeouts) and the exception classes of libraries, whose services may be down, can pass.
    """
    if isinstance(error, RewardError):
        return isinstance(error, PassingRewardError)
    if isinstance(error, OSError):
        return not isinstance(error, _LASTING_OS_ERRORS)
    return isinstance(error, Exception) and type(error).__module__ != "builtins"
