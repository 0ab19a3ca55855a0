"""The report of a run is written by a child process, and a run is told when that fails."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time

import numpy as np
import pytest

from alignment.telemetry.plots import keep_scores
from alignment.telemetry.report import process
from alignment.telemetry.report.process import writing_report

AGAIN = "to write it again: python -m alignment report"


@pytest.fixture
def folder(tmp_path, caplog):
    """Return the folder of a run of two updates."""
    caplog.set_level(logging.INFO)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": n, "sft/loss": n}) + "\n" for n in (1, 2)))
    return tmp_path


def test_a_child_draws_and_writes_while_the_run_goes_on(folder, caplog, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)  # another test of this process may have drawn
    keep_scores(folder / "plots", np.array([1.0, -0.5]))
    (folder / "ledger.json").write_text("{")
    with writing_report(folder, title="SFT: a <run>", summary={"eval/loss": (0.5, float("nan")), "updates": 2}):
        assert (folder / "report.log").is_file() and "matplotlib" not in sys.modules
    page = (folder / "report.html").read_text()
    assert "<title>SFT: a &lt;run&gt;</title>" in page and "data:image/png" in page
    warning, told = caplog.messages
    assert warning.startswith(f"{folder / 'ledger.json'} is left out of the report")
    assert told == f"report: {folder / 'report.html'}" and not (folder / "report.log").exists()


def test_a_page_that_cannot_be_written_is_one_warning_and_no_error(folder, caplog):
    (folder / "report.html").mkdir()
    with writing_report(folder, title="SFT", summary={}):
        pass
    (message,) = caplog.messages
    assert f"its process failed with exit status 1 ({folder / 'report.log'})" in message and AGAIN in message
    assert "error: cannot write" in (folder / "report.log").read_text()


def test_a_report_that_hangs_is_stopped_and_the_error_of_the_run_is_kept(folder, caplog, monkeypatch):
    monkeypatch.setattr(process, "_START", "import time; time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError), writing_report(folder, title="SFT", summary={}, seconds=0.05):
        raise ZeroDivisionError
    assert time.monotonic() - started < 30 and "it took longer than 0.05 s" in caplog.messages[0]


def test_without_a_process_there_is_no_report(folder, caplog, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(folder / "nothing"))
    with writing_report(folder, title="SFT", summary={}):
        pass
    assert "no process could be started" in caplog.messages[0] and not (folder / "report.html").exists()


def test_a_killed_run_gets_its_report(folder, repo_root):
    code = (
        "import os, signal, sys; from pathlib import Path; from alignment.telemetry.report.process import *\n"
        "with writing_report(Path(sys.argv[1]), title='t', summary={}): os.killpg(0, signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    assert subprocess.run(command, cwd=repo_root, start_new_session=True).returncode == -9
    deadline = time.monotonic() + 60
    while not (folder / "report.html").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "</html>" in (folder / "report.html").read_text()
