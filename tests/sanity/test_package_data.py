"""Files of the package that are no Python are installed with it, and stand in a source distribution."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path


def test_every_file_is_in_the_wheel(repo_root, repo_files):
    setup = (repo_root / "setup.py").read_text(encoding="utf-8")
    patterns = re.findall(r'"([^"]+)"', re.search(r'package_data=\{"alignment": \[(.*?)\]', setup, re.DOTALL)[1])
    installed = {path for pattern in patterns for path in (repo_root / "alignment").glob(pattern) if path.is_file()}
    assert {str(path) for path in data_files(repo_files) if repo_root / path not in installed} == set()


def test_every_file_is_in_the_source_distribution(repo_root, repo_files):
    lines = [line.split() for line in (repo_root / "MANIFEST.in").read_text(encoding="utf-8").splitlines()]
    rules = [(folder, patterns) for kind, folder, *patterns in lines if kind == "recursive-include"]

    def is_included(path: Path) -> bool:
        return any(
            path.is_relative_to(folder) and any(fnmatch(path.name, pattern) for pattern in patterns)
            for folder, patterns in rules
        )

    assert {str(path) for path in data_files(repo_files) if not is_included(path)} == set()


def data_files(repo_files: list[Path]) -> list[Path]:
    found = [path for path in repo_files if path.parts[0] == "alignment" and path.suffix != ".py"]
    assert Path("alignment/telemetry/report/assets/uplot/LICENSE") in found
    return found
