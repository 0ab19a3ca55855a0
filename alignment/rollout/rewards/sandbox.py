"""Run untrusted Python in child processes with limits on time, memory and output; their process group ends with them.

The limits are those of the operating system (``setrlimit``). Where it allows, the child has no network and its own
process numbers (Linux namespaces), so that even a process that leaves its group ends with it. This keeps accidents in
bounds; it is no wall against an attacker: files that this user may read can be read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from alignment.errors import RewardError

_BOOT = """
import ctypes, os, resource, sys
cpu, memory, output, started = map(int, sys.argv[1:])
libc = ctypes.CDLL(None)

def die_with_parent():
    if sys.platform == "linux":
        libc.prctl(1, 9)

def leave_the_rest_to_a_child():
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(code if code >= 0 else 128 - code)
    die_with_parent()

die_with_parent()
if sys.platform == "linux" and libc.unshare(0x10000000 | 0x40000000 | 0x20000000) == 0:
    leave_the_rest_to_a_child()
    leave_the_rest_to_a_child()
for what, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, output), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(what, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
os.write(started, b"1")
os.set_inheritable(started, False)
os.execv(sys.executable, [sys.executable, "-s", "-B", "program.py"])
"""
"""Enters namespaces of its own (user, network, processes) if it may, sets the limits, then becomes the program.

The first process of a process namespace survives signals, such as that of the time limit: it waits for the second.
The program runs without -I, which would ignore PYTHONHASHSEED.
"""
_OUT_OF_TIME = (-signal.SIGXCPU, 128 + signal.SIGXCPU)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use."""

    cpu_seconds: int = 5
    wall_seconds: float = 20.0
    """Longer than ``cpu_seconds``, so that a busy machine does not decide on results."""
    memory_bytes: int = 512 * 2**20
    output_bytes: int = 2**16
    """Of each file that it writes, its output among them."""


class Ran(NamedTuple):
    """How a program ended."""

    is_ok: bool
    """Whether it ended by itself with exit status 0."""
    output: str
    timed_out: bool
    out_of_memory: bool


def run_all(programs: Sequence[tuple[str, str]], limits: Limits, *, processes: int) -> list[Ran]:
    """Run (source, standard input) pairs, at most ``processes`` at once; results are in the order of ``programs``."""
    with ThreadPoolExecutor(max_workers=max(1, min(processes, len(programs)))) as pool:
        return list(pool.map(lambda program: run_program(*program, limits), programs))


def run_program(source: str, given: str, limits: Limits) -> Ran:
    """Run ``source`` with the standard input ``given`` in a folder of its own, which is deleted.

    RewardError if the limits could not be set: then nothing was run.
    """
    with tempfile.TemporaryDirectory(prefix="reward-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "program.py").write_text(source, encoding="utf-8", errors="replace")
        (folder / "input").write_text(given, encoding="utf-8", errors="replace")
        # The program can replace files of its folder, so its output goes to files without a name.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            status, has_started = _run_in(folder, out, err, limits)
            output, errors = _read(out, limits.output_bytes).decode("utf-8", "replace"), _read(err, limits.output_bytes)
    if not has_started and status is not None:
        raise RewardError(f"no program could be started under its limits: {errors.decode('utf-8', 'replace')[-500:]}")
    timed_out = status is None or status in _OUT_OF_TIME
    return Ran(status == 0, output, timed_out, b"MemoryError" in errors and status != 0)


def _read(file: BinaryIO, limit: int) -> bytes:
    """Return at most ``limit`` bytes from the start of ``file``, which no write can take beyond it (RLIMIT_FSIZE)."""
    file.seek(0)
    return file.read(limit)


def _run_in(folder: Path, out: BinaryIO, err: BinaryIO, limits: Limits) -> tuple[int | None, bool]:
    """Run program.py in ``folder`` with its output to ``out`` and ``err``.

    Return its exit status (see ``_wait``) and whether it was started at all.
    """
    reader, writer = os.pipe()
    numbers = [limits.cpu_seconds, limits.memory_bytes, limits.output_bytes, writer]
    with open(reader, "rb") as started:
        with open(writer, "wb"), open(folder / "input", "rb") as given:
            child = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, *map(str, numbers)],
                cwd=folder,
                env={"PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
                stdin=given,
                stdout=out,
                stderr=err,
                pass_fds=(writer,),
                start_new_session=True,
            )
        return _wait(child, limits.wall_seconds), started.read() == b"1"


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Return the exit status, None if the time is over; then, as in any case, all processes of its group are killed."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
