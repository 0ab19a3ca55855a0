"""Write the report of a run in a child process, so that a run imports neither the templates nor the plots."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignment.telemetry import log
from alignment.telemetry.exit_status import describe_exit

WAIT_SECONDS = 120.0
"""How long a run waits for its report at its end; the child is stopped then."""
LOG_FILE = "report.log"
"""What the child says; kept only if it fails."""
_START = "import sys; sys.path[:] = sys.argv[2:]; from alignment.telemetry.report.child import main; main(sys.argv[1])"


@contextmanager
def writing_report(
    output_dir: Path, *, title: str, summary: Mapping[str, Any], seconds: float = WAIT_SECONDS
) -> Iterator[None]:
    """Write the report of ``output_dir`` and its plots while the body runs, and wait for it at most ``seconds``.

    ``title`` and ``summary`` are those of ``write_report``. A report that fails is one warning and no error. The child
    has a session of its own: if this process is killed, it still finishes.
    """
    output = output_dir / LOG_FILE
    call = json.dumps({"folder": str(output_dir), "title": title, "summary": summary})
    try:
        with output.open("wb") as stream:
            child = subprocess.Popen(
                [sys.executable, "-c", _START, call, *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        log.warn(_describe(output_dir, f"no process could be started: {error}"))
        yield
        return
    try:
        yield
    finally:
        _finish(child, output_dir, seconds)


def _finish(child: subprocess.Popen[bytes], output_dir: Path, seconds: float) -> None:
    """Wait for ``child`` and tell what became of the report."""
    output = output_dir / LOG_FILE
    try:
        status = child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        log.warn(_describe(output_dir, f"it took longer than {seconds:g} s ({output})"))
        return
    if status:
        log.warn(_describe(output_dir, f"its process {describe_exit(status)} ({output})"))
        return
    for line in output.read_text(encoding="utf-8", errors="replace").splitlines():
        log.warn(line)
    output.unlink(missing_ok=True)
    log.info(f"report: {output_dir / 'report.html'}")


def _describe(output_dir: Path, reason: str) -> str:
    return f"the report is missing or incomplete: {reason}; to write it again: python -m alignment report {output_dir}"
