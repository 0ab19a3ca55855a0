"""Exit statuses and last words of a trainer."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from alignment.errors import DataError
from alignment.parallel.comms import guard
from alignment.parallel.comms.guard import CommunicationError
from alignment.parallel.comms.stop_signals import Interrupted
from alignment.runs.entry import GO_ON, run_entry


def _raising(error):
    def train(arguments):
        if error is not None:
            raise error

    return train


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (None, 0, ""),
        (DataError("no rows"), 2, "error: no rows\n"),
        (Interrupted(signal.SIGTERM, "saved at 27", agreed=True), 143, "saved at 27\n"),
        (Interrupted(signal.SIGTERM), 143, "ended by SIGTERM\n"),
        (Interrupted(signal.SIGINT), 130, "ended by SIGINT\n"),
    ],
)
def test_the_status_says_how_a_run_ended(error, status, said, capsys):
    with pytest.raises(SystemExit) as left:
        run_entry(_raising(error))
    assert (left.value.code, capsys.readouterr().err) == (status, said)


@pytest.mark.parametrize(
    ("go_on", "said"),
    [
        ({}, "interrupted\n"),
        ({"go_on": "the same command continues"}, "interrupted; the same command continues\n"),
        (
            {"go_on": GO_ON},
            "interrupted; continue with --resume_from_checkpoint true --overwrite_output_dir false\n",
        ),
    ],
)
def test_ctrl_c_tells_how_to_continue_only_where_that_is_known(go_on, said, capsys):
    with pytest.raises(SystemExit) as left:
        run_entry(_raising(KeyboardInterrupt()), **go_on)
    assert (left.value.code, capsys.readouterr().err) == (130, said)


class Notes(list):
    """A board that only remembers."""

    def fail(self, now, text):
        self.append(text)


@pytest.mark.parametrize(
    ("error", "status", "kept"),
    [
        (DataError("no rows"), 2, [b"error: no rows"]),
        (AssertionError("score.weight"), 1, [b"AssertionError: score.weight"]),
        (CommunicationError("rank 1 is gone"), 2, []),
    ],
)
def test_what_ends_a_process_is_left_to_the_others(error, status, kept, monkeypatch, capsys):
    notes = Notes()
    monkeypatch.setattr(guard, "GUARDS", [SimpleNamespace(watch=SimpleNamespace(board=notes))])
    with pytest.raises(SystemExit) as left:
        run_entry(_raising(error))
    assert (left.value.code, notes) == (status, kept)
    assert ("Traceback" in capsys.readouterr().err) == (status == 1)


@pytest.mark.parametrize("code", [0, None, 1])
def test_code_that_calls_exit_does_not_end_a_run_well(code, capsys):
    with pytest.raises(SystemExit) as left:
        run_entry(_raising(SystemExit(code)))
    assert left.value.code == 2
    assert f"error: a call of exit ended the run: SystemExit: {code} ({__file__}, line" in capsys.readouterr().err


def test_help_is_no_failure(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run_sft.py", "--help"])
    with pytest.raises(SystemExit) as left:
        run_entry(_raising(SystemExit(0)))
    assert left.value.code == 0


@pytest.mark.parametrize(("name", "words"), [("SIGILL", "Illegal instruction"), ("SIGBUS", "Bus error")])
def test_a_fault_says_what_it_is_and_where_it_happened(name, words, tmp_path, repo_root):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\nfrom alignment.runs.entry import run_entry\n\n"
        f"def compute(arguments):\n    os.kill(os.getpid(), signal.{name})\n\nrun_entry(compute)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -getattr(signal, name)
    assert f"Fatal Python error: {words}" in done.stderr
    assert f'File "{script}", line 5 in compute' in done.stderr
