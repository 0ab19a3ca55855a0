"""Runs tests on copies of the repository: paddle is imported once, and every trial is a fork of that process.

A fork imports the package afresh from its copy, in which one file may hold a fault.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib
import json
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HEAVY = (
    "numpy", "paddle", "pytest", "_pytest.assertion.rewrite", "hypothesis.strategies", "matplotlib.pyplot", "coverage",
    "tokenizers", "safetensors.numpy", "jinja2.sandbox", "sentencepiece", "datasets", "rich.console", "httpx", "yaml",
)  # fmt: skip
"""What tests import besides the package, as far as it is installed."""
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--no-header", "-W", "ignore")
KILLED, ALIVE, TIMEOUT, BROKEN = "killed", "alive", "timeout", "broken"


def prepare_server() -> None:
    """Import what every fork needs, with one thread; the package itself is not imported."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["GLOG_minloglevel"] = "2"  # noqa: SIM112 - its name
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert not any(name.split(".")[0] == "alignment" for name in sys.modules)


class Copy:
    """A copy of the committed and changed files of a repository, in which faults are put and taken out again."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        names = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True
        )
        for name in names.stdout.split("\n"):
            if (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, folder / name)
        # Not compared with their sources when they are imported: that takes a fault's own file out of the cache.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(str(folder / "alignment"), quiet=2, invalidation_mode=mode)

    @contextlib.contextmanager
    def holding(self, path: str, text: str) -> Any:
        """Have ``text`` in the file ``path`` inside."""
        file = self.folder / path
        before, cached = file.read_bytes(), Path(importlib.util.cache_from_source(str(file)))
        kept = cached.read_bytes()
        cached.unlink()
        file.write_text(text, encoding="utf-8")
        try:
            yield
        finally:
            file.write_bytes(before)
            cached.write_bytes(kept)

    def run(self, tests: Sequence[str], *, timeout: float, plugin: Callable[[], Any] | None = None) -> tuple[str, str]:
        """Run ``tests`` until one fails; return (outcome, the first test that failed or the end of the output)."""
        log = self.folder / "trial.log"
        child = os.fork()
        if child == 0:
            os._exit(self._run_here(tests, log, plugin))
        status = _wait(child, timeout)
        text = log.read_text(encoding="utf-8", errors="replace")
        failed = next((line.split()[1] for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))), "")
        if status is None:
            return TIMEOUT, ""
        outcomes = {0: ALIVE, 4: BROKEN, 5: BROKEN}
        return outcomes.get(status, KILLED), failed or text[-300:]

    def _run_here(self, tests: Sequence[str], log: Path, plugin: Callable[[], Any] | None) -> int:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(self.folder)
        os.environ["PYTHONPATH"] = str(self.folder)
        sys.path[:] = [str(self.folder), *(p for p in sys.path if p not in ("", os.environ.get("PYTHONPATH")))]
        importlib.invalidate_caches()
        import pytest

        plugins = [plugin()] if plugin else []
        try:
            status = int(pytest.main([*OPTIONS, f"--basetemp={self.folder}/tmp", *tests], plugins=plugins))
        except BaseException:  # noqa: BLE001 - a fault may raise anything, SystemExit included
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        return status


def _wait(child: int, timeout: float) -> int | None:
    """Return the exit status of ``child`` (1 for a signal), or None when it took too long and was ended."""
    end, status = time.monotonic() + timeout, None
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        done = 0
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what the tests started, too
    if not done:
        os.waitpid(child, 0)
        return None
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1


class LinePlugin:
    """A pytest plugin that notes which lines of the package each test runs, and how long it takes."""

    def __init__(self, package: Path, result: Path) -> None:
        import coverage

        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()
        self._result = result
        self._coverage = coverage.Coverage(data_file=None, source=[str(package)], config_file=False)
        self._coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Charge lines to the test that begins."""
        self._coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add the seconds of a phase."""
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration
        if report.outcome != "passed":
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write {seconds, lines} of the tests that passed."""
        self._coverage.stop()
        data, lines = self._coverage.get_data(), {}
        for file in data.measured_files():
            by_line = data.contexts_by_lineno(file)
            lines[file] = {n: [c for c in contexts if c and c not in self._failed] for n, contexts in by_line.items()}
        seconds = {name: value for name, value in self._seconds.items() if name not in self._failed}
        text = json.dumps({"seconds": seconds, "failed": sorted(self._failed), "lines": lines})
        self._result.write_text(text, encoding="utf-8")
