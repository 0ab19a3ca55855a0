"""What a check measures: peaks of the last iteration, of Paddle's tensors and of the process."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.data.sources.packing import TOKENIZER
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.planner.trial import FullTexts, PhaseRecorder, TensorGauge, _full_samples, constant_reward
from alignment.runs.offline.models import POLICY
from alignment.trainers.objectives import OBJECTIVES, SCORE_OBJECTIVES

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


def test_the_samples_of_an_update_are_full_rows_of_any_objective():
    training = SimpleNamespace(seed=3, per_device_train_batch_size=2, gradient_accumulation_steps=3)
    parsed = SimpleNamespace(training=training, data=SimpleNamespace(max_length=16))
    samples = _full_samples(parsed, 1, batch_ranks=2)
    assert len(samples) == 2 * 3 * 2
    begun = [sample["better_input_ids"][:4] for sample in _full_samples(parsed, 4, batch_ranks=2)]
    others = [sample["worse_input_ids"][:4] for sample in _full_samples(parsed, 4, batch_ranks=2)]
    assert np.array_equal(begun, others) and not np.array_equal(begun[0], begun[1])
    for objective in (*OBJECTIVES.values(), *SCORE_OBJECTIVES.values()):
        batch = objective.make_batch(samples[:2])
        assert set(batch.lengths) == {16} and batch.num_rows == 2 * objective.rows_per_sample
        if objective.model is POLICY:
            assert batch.num_targets == 15 * batch.num_rows


def test_rewards_differ():
    assert constant_reward(["", ""], ["", ""], [None, None]) == [0.0, 1.0]


def test_a_model_that_compares_reads_responses_of_full_length():
    rollout = SimpleNamespace(responses=[[0]] * 6)
    texts = FullTexts(SimpleNamespace(batch=len), 16).texts(rollout)
    tokenizer = load_tokenizer(TOKENIZER)
    assert [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts] == [16] * 6
    assert len(set(texts)) == 6, "equal responses are not compared"
