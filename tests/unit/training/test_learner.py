"""AdamW by canonical names: state survives a round trip bit for bit; clipping measures the joint norm."""

import numpy as np
import paddle
import pytest

from alignment.errors import CheckpointError, NumericalError
from alignment.parallel.dense import DenseRunner
from alignment.parallel.runner import Objective
from alignment.records import Loss, TokenBatch
from alignment.telemetry.metrics import Metric
from alignment.training.learner import Learner
from alignment.training.optimizers import STATE_FIELDS, AdamSettings, NamedAdamW, clip_by_global_norm, decays
from alignment.training.schedules import Schedule

BATCH = TokenBatch.build([np.array([1, 2, 3])], [np.array([1, 2])])


def _learner(seed=0):
    paddle.seed(seed)
    model = paddle.nn.Linear(3, 2)
    schedule = Schedule(kind="constant", peak=0.1, floor=0.0, warmup_updates=0, decay_updates=1)
    optimizer = NamedAdamW(dict(model.named_parameters()), AdamSettings(weight_decay=0.1))
    return Learner("policy", DenseRunner(model), optimizer=optimizer, schedule=schedule, max_grad_norm=1.0)


def _objective(scale=1.0):
    return Objective(
        lambda model, batch: model(paddle.to_tensor(batch.input_ids.astype("float32"))),
        lambda output, batch: Loss(output.square().sum() * scale, {"loss": Metric(output.sum())}),
    )


def _weights(learner):
    return {name: value.numpy() for name, value in learner.weights()}


def test_resumed_learner_equals_the_uninterrupted_one_bit_for_bit():
    straight, first = _learner(), _learner()
    for learner, updates in ((straight, 4), (first, 2)):
        for _ in range(updates):
            learner.accumulate([BATCH], _objective())
            learner.apply()
    second = _learner(seed=1)
    for name, value in second.weights():
        value.set_value(_weights(first)[name])
    second.load_state(first.state())
    for _ in range(2):
        second.accumulate([BATCH], _objective())
        second.apply()
    assert second.num_updates == 4
    for name, value in _weights(straight).items():
        np.testing.assert_array_equal(value, _weights(second)[name])


def test_unknown_optimizer_state_is_refused():
    with pytest.raises(CheckpointError, match="not a parameter"):
        _learner().load_state({"num_updates": np.array([1]), "other/moment1_0": np.zeros(2)})


def test_nan_stops_before_anything_is_applied():
    learner = _learner()
    before = _weights(learner)
    with pytest.raises(NumericalError, match="policy loss is nan at update 1"):
        learner.accumulate(
            [BATCH],
            _objective(scale=1.0)._replace(
                loss=lambda output, batch: Loss(output.sum(), {"loss": Metric(output.sum() * float("nan"))})
            ),
        )
    np.testing.assert_array_equal(before["weight"], _weights(learner)["weight"])


def test_clipping_returns_the_norm_before_and_scales_to_the_limit():
    learner = _learner()
    learner.accumulate([BATCH], _objective())
    parameters = dict(learner.weights())
    squares = sum(float((p.grad**2).sum()) for p in parameters.values())
    assert clip_by_global_norm(parameters, 0.0) == pytest.approx(squares**0.5, rel=1e-6)
    clip_by_global_norm(parameters, 0.5)
    assert sum(float((p.grad**2).sum()) for p in parameters.values()) ** 0.5 == pytest.approx(0.5, rel=1e-5)


def test_decay_spares_biases_and_norms():
    names = ["model.norm.weight", "a.bias", "model.layers.0.self_attn.q_proj.weight"]
    assert [decays(n) for n in names] == [False, False, True]


def _half_precision(values):
    """An optimizer of bfloat16 parameters with its state made, as after a step on a GPU; the CPU has no such step."""
    model = paddle.nn.Linear(3, 2)
    model.to(dtype="bfloat16")
    optimizer = NamedAdamW(dict(model.named_parameters()), AdamSettings())
    if values:
        optimizer.load_state(values)
    with paddle.no_grad():
        optimizer._optimizer._create_accumulators(
            paddle.base.framework.default_main_program().global_block(), model.parameters()
        )
    return optimizer


def test_moments_of_half_precision_parameters_are_saved_and_come_back():
    saved = {name: np.full_like(value, 0.25) for name, value in _half_precision({}).state().items()}
    assert {name.partition("/")[2] for name in saved} == {"master", *STATE_FIELDS}
    restored = _half_precision(saved).state()
    assert restored.keys() == saved.keys()
    for name, value in saved.items():
        np.testing.assert_array_equal(restored[name], value)
