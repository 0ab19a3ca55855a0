"""Memory of a GPU: what is asked of Paddle for it, with a stand-in for the device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from alignment.device.memory import BesidePaddle, DeviceGauge, HostGauge, MemoryWatch

GIB = 2**30


@pytest.fixture
def memory(monkeypatch):
    """A GPU's allocator; a test moves its numbers."""
    state = SimpleNamespace(now=1 * GIB, most=1 * GIB)
    # Engines of other tests of this process may still be alive.
    monkeypatch.setattr("alignment.device.memory.BESIDE_PADDLE", BesidePaddle())
    monkeypatch.setattr("paddle.device.cuda.memory_allocated", lambda: state.now)
    monkeypatch.setattr("paddle.device.cuda.max_memory_allocated", lambda: state.most)
    monkeypatch.setattr("paddle.device.cuda.reset_max_memory_allocated", lambda: setattr(state, "most", state.now))
    return state


def test_a_gpu_is_asked_what_it_has_given_out_and_its_peak_starts_anew(memory):
    gauge = DeviceGauge()
    memory.now, memory.most = 2 * GIB, 5 * GIB
    assert gauge.read() == (2 * GIB, 5 * GIB)
    gauge.reset()
    assert gauge.read() == (2 * GIB, 2 * GIB)


def test_what_a_library_takes_beside_paddle_counts(memory, monkeypatch):
    monkeypatch.setattr("alignment.device.memory.BESIDE_PADDLE", beside := BesidePaddle())
    watch = MemoryWatch.of("gpu")
    with watch.phase("rollout"):
        beside.change(4 * GIB)
        memory.most = 2 * GIB
        beside.change(-1 * GIB)
    assert watch.pop() == {"memory/rollout_gib": 6.0, "memory/rollout_after_gib": 4.0}
    with watch.phase("update"):
        pass
    assert watch.pop() == {"memory/update_gib": 4.0, "memory/update_after_gib": 4.0}


def test_a_phase_on_a_gpu_has_the_devices_peak(memory):
    watch = MemoryWatch.of("gpu")
    with watch.phase("update"):
        memory.now, memory.most = 3 * GIB, 7 * GIB
    assert watch.pop() == {"memory/update_gib": 7.0, "memory/update_after_gib": 3.0}
    assert isinstance(MemoryWatch.of("cpu")._gauge, HostGauge)
