"""What ``make`` does before anything else: find a Python, and say so when there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NEEDED = ("sh", "sed", "rm", "tail", "date", "touch")


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A folder that holds the few commands the script uses, and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED:
        (folder / name).symlink_to(shutil.which(name))
    return folder


def run_script(repo_root: Path, bare_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = repo_root / "tools" / "python-env.sh"
    variables = {"PATH": str(bare_path), **environment}
    command = [str(bare_path / "sh"), str(script), str(bare_path.parent / "venv"), ""]
    return subprocess.run(command, cwd=repo_root, env=variables, capture_output=True, text=True, timeout=60)


def add_stub(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!{shutil.which('sh')}\n{body}\n")
    os.chmod(folder / name, 0o755)


def test_no_suitable_python_is_said_with_what_is_needed(repo_root, bare_path):
    add_stub(bare_path, "python3.12", "exit 127")  # as pyenv's stubs of versions that are not selected
    add_stub(bare_path, "python3", "exit 1")  # as any other version answers the question for its range
    result = run_script(repo_root, bare_path)
    assert result.returncode == 1
    assert "Python 3.10, 3.11 or 3.12 with the venv module is needed" in result.stderr
    assert "PYTHON=/path/to" in result.stderr
    assert not (bare_path.parent / "venv").exists()


def test_a_python_without_venv_is_named(repo_root, bare_path):
    add_stub(bare_path, "python3.11", 'test "$1" = -c')
    result = run_script(repo_root, bare_path)
    assert result.returncode == 1
    assert "cannot create a virtual environment: python3.11" in result.stderr
    assert "python3-venv" in result.stderr


def test_only_python3_is_enough_and_a_failed_install_shows_its_log(repo_root, bare_path):
    stub = (
        'case "$2" in venv) mkdir -p "$3/bin"; cp "$0" "$3/bin/python";;'
        ' pip) echo "no space left"; exit 1;; esac; exit 0'
    )
    for name in ("mkdir", "cp"):
        (bare_path / name).symlink_to(shutil.which(name))
    add_stub(bare_path, "python3", stub)
    result = run_script(repo_root, bare_path)
    assert "from python3)" in result.stdout
    assert result.returncode == 1
    assert "pip install --editable . failed" in result.stderr
    assert "no space left" in result.stderr
    assert not (bare_path.parent / "venv" / ".installed-").exists()
