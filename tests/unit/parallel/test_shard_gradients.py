"""Gradients taken out of a model in one process: sums over passes, what has none, and forgetting."""

import numpy as np
import paddle
from paddle import nn

from alignment.parallel.sharding import message_cuts
from alignment.parallel.sharding.gradients import GradientReducer
from alignment.parallel.sharding.units import find_units
from alignment.parallel.topology import Topology


class _Model(nn.Layer):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return self.used(x)


def _reducer(model, **options):
    return GradientReducer(
        dict(model.named_parameters()),
        find_units(model),
        topology=Topology(device="cpu"),
        is_cut=False,
        **{"during_backward": False, **options},
    )


def _run(model, factor):
    (model(paddle.ones([1, 3])).sum() * factor).backward()


def test_passes_add_up_and_leave_nothing_in_the_model():
    model = _Model()
    reducer = _reducer(model)
    for factor in (1.0, 2.5):
        _run(model, factor)
        assert all(p.grad is None for p in model.parameters())
    gradients = reducer.finish()
    assert sorted(gradients) == ["used.bias", "used.weight"]
    for gradient in gradients.values():
        np.testing.assert_array_equal(gradient.numpy(), np.full(gradient.shape, 3.5, np.float32))
    assert reducer.finish() == {}


def test_a_weight_used_twice_and_gradients_that_share_memory():
    model = _Model()
    first, second = model.used.weight, model.unused.weight
    reducer = _reducer(model)
    for _ in range(2):
        # The gradients of both terms of a sum may be the same memory.
        ((first + second).sum() + (first * 2.0).sum()).backward()
    gradients = reducer.finish()
    np.testing.assert_array_equal(gradients["used.weight"].numpy(), np.full([3, 2], 6.0, np.float32))
    np.testing.assert_array_equal(gradients["unused.weight"].numpy(), np.full([3, 2], 2.0, np.float32))


def test_reducing_section_by_section_gives_the_same(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    reducer = _reducer(model)
    for factor in (1.0, 0.5):
        _run(model, factor)
    want = {name: value.numpy() for name, value in reducer.finish().items()}
    monkeypatch.setattr(message_cuts, "BUCKET_BYTES", 40)
    other = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    other.set_state_dict(model.state_dict())
    arrived = []
    eager = _reducer(other, during_backward=True, arrived=arrived.append)
    assert [list(bucket.shapes) for bucket in eager.buckets] == [["2.weight", "2.bias"], ["0.weight"], ["0.bias"]]
    for factor in (1.0, 0.5):
        _run(other, factor)
        assert eager._pending == {}
    found = eager.finish()
    for name, value in want.items():
        np.testing.assert_array_equal(found[name].numpy(), value)
    assert sorted(arrived) == sorted([*want] * 2)


def test_half_precision_is_summed_in_float32():
    layer = nn.Layer()
    layer.weight = layer.create_parameter([2], dtype="bfloat16")
    reducer = _reducer(layer)
    for factor in (1.0, *[2.0**-9] * 4):
        (layer.weight.astype("float32") * factor).sum().backward()
    gradient = reducer.finish()["weight"]
    assert gradient.dtype == paddle.float32
    assert gradient.tolist() == [1.0 + 2.0**-7] * 2


def test_clearing_forgets():
    model = _Model()
    reducer = _reducer(model)
    _run(model, 1.0)
    assert {name for name, _ in reducer.held()} == {"used.weight", "used.bias"}
    reducer.clear()
    assert list(reducer.held()) == []
    _run(model, 2.0)
    assert float(reducer.finish()["used.bias"][0]) == 2.0
