"""Settings every test shares: one thread, fixed seeds, the root of the repository."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import random
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Read by paddle, numpy and torch when they are first imported, by the tests and by what they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Every process that a test starts would compile 400 modules anew (half a second to a second).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A machine that is busy draws examples slowly, which is no fault.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Seed every generator that is loaded; nothing is imported for it."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    for framework, seed in (("paddle", "seed"), ("torch", "manual_seed")):
        if framework in sys.modules:
            getattr(sys.modules[framework], seed)(0)


@pytest.fixture(autouse=True)
def unconfigured_log() -> Iterator[None]:
    """A run that a test or a fixture makes configures the log of this process; every test begins without that."""
    _reset_log()
    yield
    _reset_log()


@pytest.fixture(autouse=True)
def unshared_tokens() -> Iterator[None]:
    """A run that a test makes lets rows of this process share tokens; the next test begins without that."""
    yield
    forest = sys.modules.get("alignment.models.decoder.forest")
    if forest is not None:
        forest.share_tokens(False)


def _reset_log() -> None:
    logger = logging.getLogger("alignment")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay to the end: looking for garbage among them takes a tenth of the time."""
    gc.disable()
    found = yield
    gc.enable()
    gc.freeze()
    return found


class _NamesFailures:
    """Names each failed test at once: a run that is stopped at its time limit has no summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"FAILED {report.nodeid}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Name failures where the results of all workers arrive."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_NamesFailures(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip interop tests where the extra is not installed."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    for item in items:
        if missing and item.get_closest_marker("interop"):
            item.add_marker(pytest.mark.skip(reason=f"extra interop: {', '.join(missing)} not installed"))
