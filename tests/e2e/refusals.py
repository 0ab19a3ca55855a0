"""How a trainer refuses: exit status 2, one message, nothing half-written. Trainers run in this process: it is fast."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import runs

from alignment.trainers.registered import TRAINERS

LEFTOVERS = ("policy", "value", "reward", "best", "checkpoint-*", ".writing-*", ".retired-*", ".*.part")
BEGUN = ("updates of", "responses, ")
"""What a trainer logs when everything has been checked and training begins."""


class Done(NamedTuple):
    """What a run in this process left, as a completed process has it."""

    returncode: int
    stdout: str
    stderr: str


def run_here(trainer: str, arguments: dict[str, Any], folder: Path, *extra: str) -> Done:
    """Run ``trainer`` as its script does, from its entry to its exit status, in this process and from ``folder``."""
    from alignment.runs.entry import run_entry

    train = TRAINERS[trainer].train
    argv = [*runs.command(trainer, arguments, folder)[1:], *extra]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), as_a_process(argv, folder):
        try:
            run_entry(lambda rest: train(rest, host="test"))
        except SystemExit as leaving:
            status = int(leaving.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


def train_here(trainer: str, arguments: dict[str, Any], folder: Path, *extra: str) -> Done:
    """Run ``trainer`` in this process and fail the test with its output unless it ends well."""
    done = run_here(trainer, arguments, folder, *extra)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def message_of(done: Any, *says: str) -> str:
    """Return the one message of a refusal, which stands at the end of stderr and holds all of ``says``."""
    assert done.returncode == 2, f"exit status {done.returncode}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stderr, done.stderr[-4000:]
    pieces = f"\n{done.stderr}".split("\nerror: ")
    assert len(pieces) == 2, done.stderr[-4000:]
    missing = [word for word in says if word not in pieces[1]]
    assert not missing, f"the message lacks {missing}: {pieces[1]}"
    return pieces[1].strip()


def left_behind(output_dir: Path) -> list[str]:
    """Return the names of models, checkpoints and unfinished files in ``output_dir``."""
    return sorted(path.name for pattern in LEFTOVERS for path in Path(output_dir).glob(pattern))


def refuse(trainer: str, arguments: dict[str, Any], folder: Path, *says: str) -> str:
    """Run ``trainer`` on what it must refuse before it trains; return the message, which holds all of ``says``."""
    done = run_here(trainer, {"output_dir": folder / "out", **arguments}, folder)
    message = message_of(done, *says)
    assert not [words for words in BEGUN if words in done.stderr], f"it began to train\n{done.stderr}"
    assert left_behind(folder / "out") == []
    return message


def stop(trainer: str, arguments: dict[str, Any], folder: Path, *says: str) -> Done:
    """Run ``trainer`` on what it can only meet while it trains; the message holds ``says``, no model is left."""
    done = run_here(trainer, {"output_dir": folder / "out", **arguments}, folder)
    message_of(done, *says)
    assert not [name for name in left_behind(folder / "out") if not name.startswith("checkpoint-")]
    return done


def write_rows(path: Path, *rows: Any) -> Path:
    """Write JSON lines; a string is written as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@contextlib.contextmanager
def as_a_process(argv: list[str], folder: Path) -> Iterator[None]:
    """Set what a process of its own would have, and put it back: arguments, current folder, log, ``data`` module."""
    logger, before, data_module = logging.getLogger("alignment"), Path.cwd(), sys.modules.get("data")
    handlers, propagate, level = list(logger.handlers), logger.propagate, logger.level
    os.chdir(folder)
    try:
        with mock.patch.object(sys, "argv", argv):
            yield
    finally:
        os.chdir(before)
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
        # Modules of users may say ``from data import RawDataset``; the name stays for the life of a process.
        sys.modules.pop("data", None)
        if data_module is not None:
            sys.modules["data"] = data_module
