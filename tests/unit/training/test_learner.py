"""A learner's updates: with and without shards, resumed, offloaded, stopped by a NaN."""

import math

import numpy as np
import paddle
import pytest

from alignment.architecture.parts import Part
from alignment.device.offload import resident
from alignment.errors import CheckpointError, NumericalError
from alignment.metrics import Metric
from alignment.parallel.dense import DenseRunner
from alignment.parallel.runner import Objective
from alignment.parallel.sharding.partition import ParameterShards
from alignment.parallel.topology import Topology
from alignment.records import Loss, TokenBatch
from alignment.training.learner import Learner
from alignment.training.optimizers import AdamSettings, NamedAdamW
from alignment.training.schedules import Schedule
from tests.offloaded import bytes_away

BATCH = TokenBatch.build([np.array([1, 2, 3])], [np.array([1, 2])])


CONSTANT = Schedule(kind="constant", peak=0.1, floor=0.0, warmup_updates=0, decay_updates=1)


def _learner(seed=0, *, with_shards=False, schedule=CONSTANT):
    paddle.seed(seed)
    model = paddle.nn.Linear(3, 2)
    parameters = dict(model.named_parameters())
    shards = None
    if with_shards:
        whole = {name: Part.whole(name, p.shape) for name, p in parameters.items()}
        shards = ParameterShards(model, Topology(device="cpu"), stage=0, part_of=whole.__getitem__)
        parameters = shards.parameters
    optimizer = NamedAdamW(parameters, AdamSettings(weight_decay=0.1))
    options = {"optimizer": optimizer, "schedule": schedule, "max_grad_norm": 1.0, "shards": shards}
    return Learner("policy", DenseRunner(model), **options)


def _objective(scale=1.0):
    return Objective(
        lambda model, batch: model(paddle.to_tensor(batch.input_ids.astype("float32"))),
        lambda output, batch: Loss(output.square().sum() * scale, {"loss": Metric(output.sum())}),
    )


def _train(learner, updates):
    norms = []
    for _ in range(updates):
        learner.accumulate([BATCH, BATCH], _objective())
        norms.append(learner.apply()["policy/gradient_norm"].value)
    return norms


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
    with pytest.raises(NumericalError, match=r"^policy: loss is nan at update 1.*not the learning rate"):
        learner.accumulate(
            [BATCH],
            _objective(scale=1.0)._replace(
                loss=lambda output, batch: Loss(output.sum(), {"loss": Metric(output.sum() * float("nan"))})
            ),
        )
    np.testing.assert_array_equal(before["weight"], _weights(learner)["weight"])


def test_shards_of_one_process_change_nothing():
    plain, sharded = _learner(), _learner(with_shards=True)
    np.testing.assert_allclose(_train(plain, 3), _train(sharded, 3), rtol=1e-6)
    assert plain.state_parts() == sharded.state_parts()
    for name, value in _weights(plain).items():
        np.testing.assert_allclose(_weights(sharded)[name], value, rtol=1e-6)


@pytest.mark.parametrize("with_shards", [False, True])
def test_an_offloaded_learner_makes_the_same_updates(with_shards):
    stays, leaves = _learner(with_shards=with_shards), _learner(with_shards=with_shards)
    leaves.offload(model=True, optimizer=True)
    owners = leaves.offloaded_model, leaves.offloaded_optimizer
    assert _train(stays, 2) == _train(leaves, 2)
    assert [bytes_away(owner) for owner in owners] == [4 * 8, 4 * 8 * 2]
    with resident(*owners):
        assert _train(stays, 1) == _train(leaves, 1)
    for name, value in _weights(stays).items():
        np.testing.assert_array_equal(_weights(leaves)[name], value)
    state = leaves.state()
    for name, value in stays.state().items():
        np.testing.assert_array_equal(state[name], value)
    assert all(bytes_away(owner) for owner in owners)


def test_gradients_wait_in_host_memory_between_two_accumulations():
    learner = _learner(with_shards=True)
    learner.offload(model=True, optimizer=False)
    learner.accumulate([BATCH], _objective())
    assert bytes_away(learner.offloaded_model) == 2 * 4 * 8
    learner.accumulate([BATCH], _objective())
    assert learner.apply()["policy/gradient_norm"].value == _train(_learner(with_shards=True), 1)[0]


def test_state_restored_into_an_offloaded_learner_is_saved_again_before_any_update():
    first, second = _learner(), _learner()
    _train(first, 2)
    second.offload(model=True, optimizer=True)
    second.load_state(first.state())
    assert bytes_away(second.offloaded_optimizer) == 4 * 8 * 2
    for name, value in first.state().items():
        np.testing.assert_array_equal(second.state()[name], value)


def test_the_first_update_has_the_first_rate():
    schedule = Schedule(kind="linear", peak=0.1, floor=0.0, warmup_updates=0, decay_updates=4)
    learner, rates = _learner(schedule=schedule), []
    for _ in range(3):
        before = _weights(learner)["bias"]
        learner.accumulate([BATCH], _objective())
        rates.append(learner.apply()["policy/learning_rate"].value)
        if len(rates) == 1:
            # Adam's first step is the learning rate against the sign of the gradient; a bias does not decay.
            np.testing.assert_allclose(np.abs(_weights(learner)["bias"] - before), 0.1, rtol=1e-4)
    assert rates == pytest.approx([0.1, 0.075, 0.05])


@pytest.mark.parametrize("with_shards", [False, True])
def test_a_gradient_that_is_not_finite_is_not_applied(with_shards):
    learner = _learner(with_shards=with_shards)
    before = _weights(learner)
    bad = _objective()._replace(
        loss=lambda output, batch: Loss((output * float("nan")).sum(), {"loss": Metric(paddle.zeros([]))})
    )
    learner.accumulate([BATCH], bad)
    with pytest.raises(NumericalError, match="^policy: gradient norm is nan at update 1, which was not applied"):
        learner.apply()
    np.testing.assert_array_equal(before["weight"], _weights(learner)["weight"])


def test_after_an_update_the_learning_rate_is_what_to_lower():
    learner = _learner()
    _train(learner, 1)
    bad = _objective()._replace(loss=lambda output, batch: Loss(output.sum(), {"loss": Metric(math.inf)}))
    with pytest.raises(NumericalError, match="^policy: loss is inf at update 2.*diverged: lower the learning rate"):
        learner.accumulate([BATCH], bad)


def test_gradients_add_up_until_they_are_applied_and_are_then_gone():
    norms = []
    for times in (1, 2):
        learner = _learner()
        for _ in range(times):
            learner.accumulate([BATCH], _objective())
        norms.append(learner.apply()["policy/gradient_norm"].value)
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-5)
    assert learner.apply()["policy/gradient_norm"].value == 0.0


def test_weights_that_the_last_update_ruined_are_told_before_they_are_exported():
    learner = _learner()
    learner.check_outputs()
    _train(learner, 2)
    learner.check_outputs()
    weight = learner.runner.model.weight
    weight.set_value(weight * 1e38 * 1e3)
    said = r"^policy: its outputs are NaN or infinite after update 2 \(learning rate 0.1\).*not exported. The model has"
    with pytest.raises(NumericalError, match=said):
        learner.check_outputs()


def test_outputs_are_judged_whatever_form_they_have():
    learner = _learner()
    objective = Objective(
        lambda model, batch: (model(paddle.to_tensor(batch.input_ids.astype("float32"))), None),
        lambda output, batch: Loss(output[0].sum(), {}),
    )
    learner.accumulate([BATCH], objective)
    learner.apply()
    learner.check_outputs()
    learner.runner.model.bias.set_value(paddle.full([2], float("nan")))
    with pytest.raises(NumericalError, match="NaN or infinite"):
        learner.check_outputs()
