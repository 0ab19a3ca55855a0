"""The linter of pyproject.toml has nothing to say."""

from __future__ import annotations

import subprocess
import sys


def test_ruff(repo_root):
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "."]
    result = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
