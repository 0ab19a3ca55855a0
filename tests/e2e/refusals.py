"""How a trainer must refuse: exit status 2, one message, nothing half-written. Runs it in this process, which is fast."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import runs

BUILDERS = {"sft": "alignment.sft.build", "rm": "alignment.rm.build", "ppo": "alignment.ppo.build"}
LEFTOVERS = ("policy", "value", "reward", "best", "checkpoint-*", ".writing-*", ".retired-*", ".*.part")


class Done:
    """What a run in this process left: as a completed process has it."""

    def __init__(self, returncode: int, stdout: str, stderr: str) -> None:
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr


def run_here(trainer: str, arguments: dict[str, Any], folder: Path, *extra: str) -> Done:
    """Run ``trainer`` as its script does, from its entry to the exit status, in this process and from ``folder``."""
    from alignment.loops.entry import run_entry

    train = importlib.import_module(BUILDERS[trainer]).train
    argv = [*runs.command(trainer, arguments, folder)[1:], *extra]
    out, err, status, before = io.StringIO(), io.StringIO(), 0, Path.cwd()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.object(sys, "argv", argv):
        os.chdir(folder)
        try:
            run_entry(lambda rest: train(rest, host="test"))
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        finally:
            os.chdir(before)
    return Done(status, out.getvalue(), err.getvalue())


def train_here(trainer: str, arguments: dict[str, Any], folder: Path, *extra: str) -> Done:
    """Run ``trainer`` in this process and fail the test with its output unless it ends well."""
    done = run_here(trainer, arguments, folder, *extra)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def message_of(done: Any) -> str:
    """Return the one message of a refusal: what follows ``error: `` at the end of stderr."""
    assert done.returncode == 2, f"exit status {done.returncode}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stderr, done.stderr[-4000:]
    before, found, message = done.stderr.rpartition("\nerror: ") if "\nerror: " in done.stderr else (
        "", done.stderr.startswith("error: "), done.stderr.removeprefix("error: "))
    assert found and "error: " not in "\n".join(line[:7] for line in before.splitlines()), done.stderr[-4000:]
    return message.strip()


def left_behind(output_dir: Path) -> list[str]:
    """Return the names of models, checkpoints and unfinished files in ``output_dir``."""
    return sorted(path.name for pattern in LEFTOVERS for path in Path(output_dir).glob(pattern))


def refuse(trainer: str, arguments: dict[str, Any], folder: Path, *says: str) -> str:
    """Run ``trainer`` on ``arguments`` it must refuse before training; return the message, which holds ``says``."""
    output_dir = folder / "out"
    done = run_here(trainer, {"output_dir": output_dir, **arguments}, folder)
    message = message_of(done)
    missing = [word for word in says if word not in message]
    assert not missing, f"the message lacks {missing}: {message}"
    assert "updates of" not in done.stderr and "micro-batch," not in done.stderr, "it began to train\n" + done.stderr
    assert left_behind(output_dir) == []
    return message
