"""The process of a stage: runs a module as ``python -m`` does, and ends when the loop that started it ends.

``python -m alignment.rounds.processes.child PARENT MODULE WORD ...``
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_SET_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


def main(words: list[str]) -> None:
    """Run the module ``words[1]`` with the remaining words, as long as the process ``words[0]`` lives."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != int(words[0]):
        sys.exit("the loop that started this stage has ended")
    sys.argv = words[1:]
    runpy.run_module(words[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
