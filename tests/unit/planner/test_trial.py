"""What a check measures: peaks of the last iteration, of Paddle's tensors and of the process."""

from __future__ import annotations

import paddle
import pytest

from alignment.planner.trial import PhaseRecorder, TensorGauge, constant_reward

MIB = 1 << 20


def test_the_gauge_sees_tensors_come_and_go():
    gauge = TensorGauge()
    before, _ = gauge.read()
    gauge.reset()
    tensor = paddle.zeros([4 * MIB])
    now, peak = gauge.read()
    assert now - before == 16 * MIB
    del tensor
    assert gauge.read() == (before, peak)
    gauge.reset()
    assert gauge.read() == (before, before)


def test_the_recorder_keeps_the_peaks_of_the_last_iteration():
    recorder = PhaseRecorder()
    start, _ = TensorGauge().read()
    for size in (64, 32):
        with recorder.phase("update"):
            paddle.ones([size * MIB])
        metrics = recorder.pop()
    assert recorder.last["update"].tensors - start == pytest.approx(128 * MIB, rel=0.01)
    assert recorder.last["update"].resident > recorder.last["update"].tensors - start
    assert metrics["memory/update_gib"] * 2**30 == pytest.approx(recorder.last["update"].resident)


def test_rewards_differ():
    assert constant_reward(["", ""], ["", ""], [None, None]) == [0.0, 1.0]
