"""Run a stage in several processes, each with its own model and its own share of the rows.

They share nothing but the folder of the parts. If one fails, the others are stopped, and the next start continues.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from alignment.arguments.parsed import Parsed
from alignment.errors import ProcessError, UserError
from alignment.runs.stages.parts import Parts
from alignment.telemetry.exit_status import describe_exit

_POLL_SECONDS = 0.2
_USER_ERROR = 2
_TAIL_LINES = 20


class _Worker(NamedTuple):
    number: int
    process: subprocess.Popen[bytes]
    part: Path
    log: Path


def run_workers(
    stage: str, parsed: Parsed, count: int, parts: Parts, todo: Sequence[range], advance: Callable[[int], None]
) -> None:
    """Compute the units ``todo`` of ``stage`` in ``count`` processes and wait for them, calling ``advance`` with the
    number of new rows.

    UserError with the end of its output if a process refuses its work; ProcessError if one fails or dies.
    """
    workers = []
    try:
        for number, part in enumerate(parts.new_files(count)):
            workers.append(_start(stage, parsed, number, part, todo[number::count]))
        _watch(workers, advance)
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.wait()


def _start(stage: str, parsed: Parsed, number: int, part: Path, share: Sequence[range]) -> _Worker:
    call, output = part.with_suffix(".call.json"), part.with_suffix(".log")
    units = [[unit.start, unit.stop] for unit in share]
    content = {"stage": stage, "arguments": parsed.as_dict(), "units": units, "part": str(part)}
    call.write_text(json.dumps(content), encoding="utf-8")
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "alignment.runs.stages.worker", str(call), str(os.getpid())],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    return _Worker(number, process, part, output)


def _watch(workers: Sequence[_Worker], advance: Callable[[int], None]) -> None:
    read = dict.fromkeys(workers, 0)
    while True:
        statuses = [worker.process.poll() for worker in workers]
        for worker in workers:
            new = _new_bytes(worker.part, read[worker])
            read[worker] += len(new)
            if lines := new.count(b"\n"):
                advance(lines)
        for worker, status in zip(workers, statuses, strict=True):
            if status:
                raise (UserError if status == _USER_ERROR else ProcessError)(_describe(worker, status))
        if None not in statuses:
            return
        time.sleep(_POLL_SECONDS)


def _describe(worker: _Worker, status: int) -> str:
    lines = worker.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    said = "\n".join(lines)
    return (
        f"worker {worker.number} {describe_exit(status)}; what was done is kept, the same command continues. The "
        f"end of its output:\n{said}"
    )


def _new_bytes(path: Path, offset: int) -> bytes:
    """Return what ``path`` holds from ``offset`` on; nothing if it does not exist yet."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()
