"""AdamW by canonical names: which parameters decay, clipping, and a state in pieces that comes back."""

import numpy as np
import paddle
import pytest

from alignment.architecture.parts import Part
from alignment.errors import CheckpointError
from alignment.parallel.sharding.partition import ParameterShards
from alignment.parallel.topology import Topology
from alignment.training.optimizers import (
    MASTER_FIELD,
    STATE_FIELDS,
    AdamSettings,
    NamedAdamW,
    clip_by_global_norm,
    decays,
)


def _backward(model, scale=1.0):
    (model(paddle.arange(6, dtype="float32").reshape([2, 3])).square().sum() * scale).backward()


def test_clipping_returns_the_norm_before_and_scales_to_the_limit():
    model = paddle.nn.Linear(3, 2)
    _backward(model)
    parameters = dict(model.named_parameters())
    squares = sum(float((p.grad**2).sum()) for p in parameters.values())
    assert clip_by_global_norm(parameters, 0.0) == pytest.approx(squares**0.5, rel=1e-6)
    clip_by_global_norm(parameters, 0.5)
    assert sum(float((p.grad**2).sum()) for p in parameters.values()) ** 0.5 == pytest.approx(0.5, rel=1e-5)


def test_clipping_without_gradients_measures_nothing():
    assert clip_by_global_norm(dict(paddle.nn.Linear(3, 2).named_parameters()), 1.0) == 0.0


def test_decay_spares_biases_and_norms():
    names = ["model.norm.weight", "a.bias", "model.layers.0.self_attn.q_proj.weight"]
    assert [decays(n) for n in names] == [False, False, True]


def test_decay_goes_by_canonical_name():
    model = paddle.nn.Linear(3, 2, bias_attr=paddle.ParamAttr(initializer=paddle.nn.initializer.Constant(1.0)))
    before = model.weight.numpy()
    optimizer = NamedAdamW(dict(model.named_parameters()), AdamSettings(weight_decay=0.5))
    (model(paddle.ones([1, 3])).sum() * 0.0).backward()
    optimizer.step(0.1)
    np.testing.assert_allclose(model.weight.numpy(), before * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(model.bias.numpy(), np.ones(2, np.float32))


def test_parts_say_what_the_moments_are_of():
    model = paddle.nn.Linear(3, 2)
    piece = Part.whole("weight", (6, 2)).along(0, 3, 6)
    optimizer = NamedAdamW(dict(model.named_parameters()), AdamSettings(), parts={"weight": piece})
    assert optimizer.state_parts() == {"weight": piece, "bias": Part.whole("bias", (2,))}
    assert optimizer.state() == {}
    _backward(model)
    optimizer.step(0.1)
    assert sorted(optimizer.state()) == sorted(
        f"{name}/{field}" for name in ("weight", "bias") for field in STATE_FIELDS
    )
    assert optimizer.state()["weight/moment1_0"].shape == piece.extent
    assert {name.partition("/")[0] for name, _ in optimizer.named_tensors()} == {"weight", "bias"}


def test_state_of_another_shape_is_refused():
    optimizer = NamedAdamW(dict(paddle.nn.Linear(3, 2).named_parameters()), AdamSettings())
    with pytest.raises(CheckpointError, match=r"'weight/moment1_0' has shape \[2, 2\], and the parameter \[3, 2\]"):
        optimizer.load_state({"weight/moment1_0": np.zeros((2, 2), np.float32)})


class _HalfModel(paddle.nn.Layer):
    """A bfloat16 weight in a product the CPU has a kernel for."""

    def __init__(self):
        super().__init__()
        self.weight = self.create_parameter([3, 2], dtype="bfloat16")

    def forward(self, x):
        return x @ self.weight.astype("float32")


def _half_precision():
    model = _HalfModel()
    whole = Part.whole("weight", (3, 2))
    shards = ParameterShards(model, Topology(device="cpu"), stage=0, part_of=lambda name: whole)
    assert shards.masters == {"weight"}
    return model, shards, NamedAdamW(shards.parameters, AdamSettings(), masters=shards.masters)


def test_masters_of_half_precision_weights_take_steps_too_small_for_them_and_come_back():
    model, shards, optimizer = _half_precision()
    start = shards.parameters["weight"].numpy()
    for _ in range(3):
        _backward(model, 1e-3)
        shards.finish_gradients()
        optimizer.step(1e-5)
        shards.publish()
    saved = optimizer.state()
    assert sorted(saved) == sorted(f"weight/{field}" for field in (MASTER_FIELD, *STATE_FIELDS))
    moved = np.abs(saved["weight/master"] - start)
    np.testing.assert_allclose(moved, 3e-5, rtol=0.02)
    np.testing.assert_array_equal(
        model.weight.astype("float32").numpy(),
        paddle.to_tensor(saved["weight/master"]).astype("bfloat16").astype("float32").numpy(),
    )
    _, others, restored = _half_precision()
    restored.load_state(saved)
    np.testing.assert_array_equal(others.parameters["weight"].numpy(), saved["weight/master"])
    for name, value in saved.items():
        np.testing.assert_array_equal(restored.state()[name], value)


def test_half_precision_without_masters_is_a_mistake():
    with pytest.raises(AssertionError, match="need masters"):
        NamedAdamW(dict(_HalfModel().named_parameters()), AdamSettings())


def test_adam_is_the_one_that_was_asked_for():
    """Two steps by hand, with betas and epsilon that no default has."""
    layer = paddle.nn.Linear(1, 1, bias_attr=False)
    optimizer = NamedAdamW(dict(layer.named_parameters()), AdamSettings(beta1=0.5, beta2=0.9, epsilon=0.5))
    moment, square, expected = 0.0, 0.0, layer.weight.item()
    for step, gradient in enumerate((1.0, -0.25), start=1):
        (layer.weight * gradient).sum().backward()
        optimizer.step(0.1)
        moment, square = 0.5 * moment + 0.5 * gradient, 0.9 * square + 0.1 * gradient**2
        expected -= 0.1 * (moment / (1 - 0.5**step)) / (np.sqrt(square / (1 - 0.9**step)) + 0.5)
    assert layer.weight.item() == pytest.approx(expected, rel=1e-5)


def test_a_tiny_gradient_is_scaled_to_the_limit():
    layer = paddle.nn.Linear(1, 1, bias_attr=False)
    (layer.weight * 1e-3).sum().backward()
    assert clip_by_global_norm(dict(layer.named_parameters()), 1e-4) == pytest.approx(1e-3, rel=1e-5)
    assert layer.weight.grad.item() == pytest.approx(1e-4 / (1 + 1e-3), rel=1e-5), "1e-6 keeps the division finite"


def test_the_defaults_are_those_of_the_argument_files():
    assert AdamSettings() == AdamSettings(beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0)
