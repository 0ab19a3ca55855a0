"""The end of a process, and what is set for it when it begins."""

from __future__ import annotations

import gc

import pytest

from alignment.parallel.comms.leave import end_quietly


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_looked_for_as_before_but_not_in_what_stays(collects):
    (gc.enable if collects else gc.disable)()
    gc.unfreeze()
    try:
        end_quietly()
        assert gc.isenabled() == collects
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.enable()
