"""The end of a process that is one of several, and what is set for it when it begins."""

from __future__ import annotations

import gc
import sys
from types import SimpleNamespace

import pytest

from alignment.parallel.comms import leave as leaving
from alignment.parallel.comms.guard import Guard
from alignment.parallel.comms.leave import end_quietly


def _barrier_of_the_last():
    raise RuntimeError("[pair.cc:584] TIMEOUT self_rank = 0 pair_rank = 1")


@pytest.mark.parametrize("status", [0, 143])
def test_a_rank_that_left_first_does_not_change_how_the_others_end(status, monkeypatch):
    """A process that is slow to wake finds the connections of the last wait closed, although all have passed it."""
    world = SimpleNamespace(is_initialized=lambda: True, get_world_size=lambda: 2, barrier=_barrier_of_the_last)
    monkeypatch.setitem(sys.modules, "paddle.distributed", world)
    monkeypatch.setattr(leaving, "GUARDS", [Guard("rank 0")])
    ended = []
    monkeypatch.setattr("os._exit", ended.append)
    leaving.leave(status, together=True)
    assert ended == [status]


def test_the_last_wait_is_timed(monkeypatch):
    guard, doing = Guard("rank 0"), []
    world = SimpleNamespace(is_initialized=lambda: True, get_world_size=lambda: 2)
    world.barrier = lambda: doing.extend(operation for operation, _ in guard.watch._current.values())
    monkeypatch.setitem(sys.modules, "paddle.distributed", world)
    monkeypatch.setattr(leaving, "GUARDS", [guard])
    monkeypatch.setattr("os._exit", lambda status: None)
    leaving.leave(0, together=True)
    assert doing == ["the wait for all processes to end"]


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
