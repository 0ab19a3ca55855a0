"""The import contracts of pyproject.toml hold, and importing a package costs what it should."""

from __future__ import annotations

import subprocess
import sys

import pytest

RUN_CONTRACTS = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
LIST_LOADED = "import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"


def run_python(repo_root, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=240)


def test_contracts(repo_root):
    result = run_python(repo_root, RUN_CONTRACTS)
    assert result.returncode == 0, result.stdout[result.stdout.find("Contracts") :] + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("alignment.telemetry.log", ["paddle", "matplotlib", "visualdl", "torch", "pandas"]),
        ("alignment.telemetry.writers", ["paddle", "matplotlib", "visualdl", "tensorboardX", "wandb", "pandas"]),
        ("alignment.telemetry.report.page", ["paddle", "matplotlib", "visualdl", "numpy"]),
        # What a run imports for its report: the rest is left to a child process.
        ("alignment.telemetry.report.process", ["paddle", "matplotlib", "jinja2", "yaml", "numpy"]),
        ("alignment.records", ["paddle"]),
        ("alignment.arguments", ["paddle", "numpy"]),
        ("alignment.data", ["paddle", "torch"]),
        # What a script imports before it has read its arguments: a wrong one is told at once.
        ("alignment.runs.entry, alignment.trainers.registered as r; r.TRAINERS['ppo'].checks", ["paddle", "rich"]),
        ("alignment.trainers.registered as r; [r.TRAINERS[name].groups for name in r.TRAINERS]", ["paddle", "rich"]),
    ],
)
def test_importing_stays_light(repo_root, module, heavy):
    result = run_python(repo_root, LIST_LOADED.format(module=module, heavy=heavy))
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
