"""The files of the repository that the sanity tests look at."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def repo_files(repo_root: Path) -> list[Path]:
    """Every file that git tracks or would track, relative to the root; without git, every file of the known folders."""
    if (repo_root / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=repo_root, check=True, capture_output=True, text=True).stdout.split("\0")
        return sorted({Path(name) for name in listed if name and (repo_root / name).is_file()})
    folders = ("alignment", "benchmarks", "config", "csrc", "tests", "tools")
    found = [path for folder in folders for path in (repo_root / folder).rglob("*") if "__pycache__" not in path.parts]
    found += repo_root.glob("*")
    return sorted(path.relative_to(repo_root) for path in found if path.is_file())


@pytest.fixture(scope="session")
def package_modules(repo_files: list[Path]) -> list[Path]:
    """The Python files of the package."""
    return [path for path in repo_files if path.parts[0] == "alignment" and path.suffix == ".py"]
