"""The processes of a loop: trainers, and the host of the other stages. One runs at a time.

They do not outlive the loop: they are told to stop when it ends, however it ends, and a loop that starts again waits
for a process that is still stopping.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from alignment.errors import ProcessError
from alignment.telemetry import log
from alignment.telemetry.exit_status import describe_exit
from alignment.telemetry.files import readable_disk_errors, replace_file

RUNNING_FILE = "running.json"
_TAIL_LINES = 20
_GRACE_SECONDS = 120.0
"""How long a stage that was told to stop may take to save its checkpoint."""
_POLL_SECONDS = 0.1


class Running(NamedTuple):
    """A process that does a step."""

    pid: int
    born: str
    """When it started, in the system's ticks: with ``pid`` it names one process."""
    step: str


class Children:
    """The processes of the loop in ``folder``; ``close`` ends them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._host: subprocess.Popen[str] | None = None

    def run_program(self, words: Sequence[str], *, step: str, log_file: Path) -> None:
        """Run ``python -m`` with ``words`` in a process of its own and wait; its output goes to ``log_file``.

        ProcessError with the end of its output if it fails.
        """
        self.close()
        with _open_log(log_file) as stream:
            process = _start(words, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)
        with self._noted(process, step):
            status = process.wait()
        _check(status, step, log_file)

    def run_stage(self, stage: str, arguments: Path, *, step: str, log_file: Path) -> None:
        """Run ``stage`` in the host, which is started if there is none; otherwise as ``run_program``."""
        _open_log(log_file).close()
        if self._host is None:
            self._host = _start(
                ["alignment.rounds.processes.host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        host = self._host
        assert host.stdin is not None and host.stdout is not None
        with self._noted(host, step):
            call = {"stage": stage, "arguments": str(arguments), "log": str(log_file)}
            with contextlib.suppress(BrokenPipeError):
                host.stdin.write(json.dumps(call) + "\n")
                host.stdin.flush()
            answer = host.stdout.readline()
            status = int(answer) if answer else host.wait()
        if status or not answer:
            self.close()
        _check(status if answer else status or 1, step, log_file)

    def close(self) -> None:
        """End the host, which frees the memory of its models."""
        if self._host is not None:
            assert self._host.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._host.stdin.close()
            self._host.wait()
            self._host = None

    @contextlib.contextmanager
    def _noted(self, process: subprocess.Popen[Any], step: str) -> Any:
        """Remember in the folder that ``process`` does ``step``; stop it if the loop is interrupted meanwhile."""
        note = Running(process.pid, _birth(process.pid) or "", step)
        replace_file(self._folder / RUNNING_FILE, json.dumps(note._asdict()))
        try:
            yield
        except BaseException:
            _stop(note, process)
            self._host = None
            raise
        finally:
            (self._folder / RUNNING_FILE).unlink(missing_ok=True)


def _start(words: Sequence[str], **streams: Any) -> subprocess.Popen[Any]:
    program = [sys.executable, "-m", "alignment.rounds.processes.child", str(os.getpid()), *words]
    return subprocess.Popen(program, start_new_session=True, **streams)


def _open_log(path: Path) -> IO[bytes]:
    with readable_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")


def _check(status: int, step: str, log_file: Path) -> None:
    if status:
        raise ProcessError(
            f"{step} {describe_exit(status)}. What was done is kept, and the same command continues there. The end of "
            f"its log {log_file}:\n{tail(log_file)}"
        )


def end_leftover(folder: Path) -> None:
    """Wait until the process of a loop that was killed has ended, too; stop it if that takes long."""
    found = find_running(folder)
    if found is None:
        return
    log.info(f"{found.step} of a loop that ended is still stopping (process {found.pid}): waiting")
    _stop(found, None)
    (folder / RUNNING_FILE).unlink(missing_ok=True)


def find_running(folder: Path) -> Running | None:
    """Return the process that ``folder`` remembers, if it still runs."""
    try:
        found = Running(**json.loads((folder / RUNNING_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.born and _birth(found.pid) == found.born else None


def tail(path: Path, lines: int = _TAIL_LINES) -> str:
    """Return the last lines of a log; of a line that was overwritten (a progress bar) only what was seen last."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return "\n".join([line.rsplit("\r", 1)[-1] for line in text.rstrip().split("\n")][-lines:])


def _stop(running: Running, process: subprocess.Popen[Any] | None) -> None:
    """Tell a process and those that it started to stop; after a grace period end them."""
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.pid, number)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if (process.poll() if process else None) is not None or _birth(running.pid) != running.born:
                return
            time.sleep(_POLL_SECONDS)


def _birth(pid: int) -> str | None:
    """Return when a process started; None if there is none, or it has ended and only waits to be collected."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]
