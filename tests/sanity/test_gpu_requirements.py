"""A GPU machine installs what a CPU machine does, but for Paddle's wheel."""

from __future__ import annotations

import ast
import re
import subprocess
import sys


def requirements(repo_root) -> list[str]:
    """Return the package's requirements as setup.py lists them."""
    for node in ast.parse((repo_root / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "CORE":
            return ast.literal_eval(node.value)
    raise AssertionError("setup.py has no CORE")


def test_the_list_is_the_packages_own_without_the_cpu_wheel(repo_root):
    lines = (repo_root / "requirements-gpu.txt").read_text().splitlines()
    wheel, *others = requirements(repo_root)
    assert [line for line in lines if not line.startswith("#")] == others
    assert wheel.startswith("paddlepaddle==")


def test_it_resolves(repo_root):
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-index",
        "--no-deps",
        "-r",
        "requirements-gpu.txt",
    ]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout


def test_the_page_installs_paddle_of_the_same_version(repo_root):
    version = requirements(repo_root)[0].removeprefix("paddlepaddle==")
    page = (repo_root / "docs" / "gpu.md").read_text()
    assert re.findall(r"paddlepaddle-gpu==(\S+)", page) == [version]
