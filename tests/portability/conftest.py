"""Says at the end of the session that nothing ran on an emulated processor, where that is so."""

from __future__ import annotations

import pytest


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line where tests of this folder were skipped."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "tests/portability/" in report.nodeid]
    if skipped:
        reason = skipped[0].longrepr[2].removeprefix("Skipped: ")
        terminalreporter.write_sep("=", "NOT RUN: nothing was tried on a processor without AVX-512", yellow=True)
        terminalreporter.write_line(reason)
