"""A file that is put into ``alignment/data/sources`` registers its datasets without another edit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = '''
"""Rows of one kind."""
from alignment.data import RawDataset, RawSample


class Dropped(RawDataset):
    NAME = "dropped-in"

    def __getitem__(self, index):
        return RawSample(input="a", answer="b")

    def __len__(self):
        return 2
'''
PROGRAM = """
from alignment.data import RawDataset
from alignment.errors import UserError
try:
    print(list(RawDataset.load("dropped-in")))
except UserError as error:
    print("refused:", error)
"""


@pytest.fixture
def run_copy(tmp_path):
    """Return a function that runs a program with a copy of the package in which ``sources`` has one more file."""

    def run(content):
        package = Path(__file__).resolve().parents[3] / "alignment"
        for name in ("data", "telemetry"):
            shutil.copytree(package / name, tmp_path / "alignment" / name, ignore=shutil.ignore_patterns("shipped"))
        for file in package.glob("*.py"):
            shutil.copy(file, tmp_path / "alignment")
        (tmp_path / "alignment" / "data" / "sources" / "dropped.py").write_text(content)
        command = [sys.executable, "-c", PROGRAM]
        return subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)

    return run


def test_a_dropped_file_registers(run_copy):
    done = run_copy(SOURCE)
    assert done.stdout == "[{'input': 'a', 'answer': 'b'}, {'input': 'a', 'answer': 'b'}]\n", done.stderr


def test_a_dropped_file_that_cannot_be_imported_is_named(run_copy):
    done = run_copy("raise RuntimeError('not today')\n")
    assert "refused: module alignment.data.sources.dropped cannot be imported: RuntimeError: not today" in done.stdout
    assert "dropped.py, line 1" in done.stdout
