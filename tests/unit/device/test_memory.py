"""Memory by phase: peaks of nested phases, what stays, and kernels that do not forget a peak."""

import numpy as np

from alignment.device import memory
from alignment.device.memory import HostGauge, MemoryWatch

GIB = 2**30


class Script:
    """A gauge that is told what is used."""

    def __init__(self):
        self.now = self.peak = 0

    def use(self, gib):
        self.now = gib * GIB
        self.peak = max(self.peak, self.now)

    def read(self):
        return self.now, self.peak

    def reset(self):
        self.peak = self.now


def test_peaks_and_what_stays_by_phase():
    gauge = Script()
    watch = MemoryWatch(gauge)
    gauge.use(1)
    with watch.phase("rollout"):
        gauge.use(5)
        gauge.use(2)
    with watch.phase("update"):
        gauge.use(3)
    assert watch.pop() == {
        "memory/rollout_gib": 5.0,
        "memory/rollout_after_gib": 2.0,
        "memory/update_gib": 3.0,
        "memory/update_after_gib": 3.0,
    }
    assert watch.pop() == {}


def test_an_inner_peak_counts_in_both_and_an_outer_one_only_outside():
    gauge = Script()
    watch = MemoryWatch(gauge)
    with watch.phase("outer"):
        gauge.use(7)
        gauge.use(1)
        with watch.phase("inner"):
            gauge.use(4)
            gauge.use(1)
        with watch.phase("second"):
            gauge.use(9)
            gauge.use(0)
    found = watch.pop()
    assert [found[f"memory/{name}_gib"] for name in ("outer", "inner", "second")] == [9.0, 4.0, 9.0]


def test_the_largest_of_several_visits_is_kept():
    gauge = Script()
    watch = MemoryWatch(gauge)
    for gib in (3, 6, 2):
        with watch.phase("update"):
            gauge.use(gib)
            gauge.use(1)
    assert watch.pop() == {"memory/update_gib": 6.0, "memory/update_after_gib": 1.0}


def test_the_peak_of_this_process_is_seen():
    watch = MemoryWatch.of("cpu")
    size = 200 << 20
    with watch.phase("big"):
        np.ones(size, np.uint8).sum()
    with watch.phase("small"):
        pass
    found = watch.pop()
    assert found["memory/big_gib"] > size / GIB
    assert found["memory/small_gib"] <= found["memory/big_gib"]


def test_a_peak_the_kernel_keeps_is_not_charged_to_later_phases(monkeypatch, tmp_path):
    status = tmp_path / "status"
    monkeypatch.setattr(memory, "_STATUS", status)
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    status.write_text("VmHWM:\t  900 kB\nVmRSS:\t  100 kB\n", encoding="ascii")
    gauge = HostGauge()
    gauge.reset()
    assert gauge.read() == (100 * 1024, 100 * 1024)
    status.write_text("VmHWM:\t 1000 kB\nVmRSS:\t  100 kB\n", encoding="ascii")
    assert gauge.read() == (100 * 1024, 1000 * 1024)


def test_a_system_that_tells_nothing_gives_zero(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "missing")
    assert HostGauge().read() == (0, 0)
