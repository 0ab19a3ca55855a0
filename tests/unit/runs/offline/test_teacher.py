"""The teacher's hidden states: kept for one update, in the process and on the device where they were made."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.device.offload import Offloaded
from alignment.errors import NumericalError
from alignment.models.decoder.split_divergence import DivergenceKind
from alignment.parallel.build_runner import build_runner
from alignment.parallel.topology import Topology
from alignment.records import TokenBatch
from alignment.runs.offline.teacher import Teacher
from alignment.runs.placed import ResidentRunner
from tests.tiny_models import tiny_causal

KIND = DivergenceKind(0.5, 1.0)


def batch_of(*rows):
    return TokenBatch.build([np.array(row) for row in rows], [np.arange(1, len(row)) for row in rows])


@pytest.fixture
def batches():
    return [batch_of([3, 4, 5, 2], [6, 7]), batch_of([8, 9, 2])]


def make_teacher(model):
    return Teacher(build_runner(model, Topology(device="cpu")), KIND)


def test_numbers_are_per_target_token_and_only_those_of_the_last_update_are_kept(batches):
    student, teacher = tiny_causal(seed=1), make_teacher(tiny_causal(seed=2, hidden_size=12))
    teacher.prepare(batches, None)
    for batch in batches:
        assert [part.shape for part in teacher.read(student, batch)] == [[batch.num_targets]] * 3
    teacher.prepare(batches[1:], None)
    with pytest.raises(KeyError):
        teacher.read(student, batches[0])


def test_only_the_student_gets_gradients(batches):
    student, wider = tiny_causal(seed=1), tiny_causal(seed=2, hidden_size=12)
    teacher = make_teacher(wider)
    teacher.prepare(batches, None)
    sum(part.sum() for part in teacher.read(student, batches[0])[:2]).backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in wider.parameters())


def test_an_offloaded_teacher_leaves_its_head(batches):
    student, wider = tiny_causal(seed=1), tiny_causal(seed=2, hidden_size=12)
    plain = make_teacher(wider)
    plain.prepare(batches, None)
    expected = [part.numpy() for part in plain.read(student, batches[0])]
    runner = ResidentRunner(build_runner(wider, Topology(device="cpu")), Offloaded("teacher", wider.named_parameters))
    teacher = Teacher(runner, KIND, is_offloaded=True)
    teacher.prepare(batches, None)
    assert not any(p._is_initialized() for p in wider.parameters())
    for one, other in zip(teacher.read(student, batches[0]), expected, strict=True):
        np.testing.assert_array_equal(one.numpy(), other)


def test_a_teacher_without_numbers_is_named(batches):
    wider = tiny_causal(seed=2, hidden_size=12)
    wider.model.norm.weight.set_value(paddle.full_like(wider.model.norm.weight, np.nan))
    with pytest.raises(NumericalError, match="^teacher: its hidden states are NaN or infinite .*This model is not tra"):
        make_teacher(wider).prepare(batches, None)
