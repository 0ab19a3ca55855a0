"""The kernel library that tests of the kernels call."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from alignment.ops.native.library import CoreLibrary, find_core


@pytest.fixture(scope="module")
def core() -> Iterator[CoreLibrary]:
    """The library of this machine; its own choice of instructions is restored afterwards."""
    found, reason = find_core()
    if found is None and "no C++ compiler" in reason:
        pytest.skip(reason)
    assert found is not None, reason
    before = found.isa
    yield found
    found.set_isa(before)
