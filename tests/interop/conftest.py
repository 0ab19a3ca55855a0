"""Peers, imported only where a test asks for them, and never through the network."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def torch():
    """The torch module, on one thread."""
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module


@pytest.fixture(scope="session")
def transformers(torch):
    """The transformers module, quiet."""
    module = pytest.importorskip("transformers")
    module.logging.set_verbosity_error()
    module.utils.logging.disable_progress_bar()
    return module
