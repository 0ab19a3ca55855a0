"""AdamW by canonical names: which parameters decay, clipping, and a state in pieces that comes back."""

import platform

import numpy as np
import paddle
import pytest

from alignment.architecture.parts import Part
from alignment.errors import CheckpointError
from alignment.ops.native import sources
from alignment.ops.native.library import find_core
from alignment.ops.native.selection import use_native_ops
from alignment.parallel.sharding.partition import ParameterShards
from alignment.parallel.topology import Topology
from alignment.training import optimizers
from alignment.training.gradient_norm import clip_factor, gradient_norm
from alignment.training.optimizers import (
    MASTER_FIELD,
    MOMENT_FIELDS,
    STATE_FIELDS,
    AdamSettings,
    NamedAdamW,
    decays,
    scale_gradients,
)

ISAS = tuple(sources.ISA_FLAGS.get(platform.machine(), ("scalar",)))


def _clip(parameters, max_norm):
    """Return the norm before, and scale to the limit."""
    norm = gradient_norm(parameters)
    scale_gradients(parameters, clip_factor(norm, max_norm))
    return norm


def _backward(model, scale=1.0):
    (model(paddle.arange(6, dtype="float32").reshape([2, 3])).square().sum() * scale).backward()


def test_clipping_returns_the_norm_before_and_scales_to_the_limit():
    model = paddle.nn.Linear(3, 2)
    _backward(model)
    parameters = dict(model.named_parameters())
    squares = sum(float((p.grad**2).sum()) for p in parameters.values())
    assert _clip(parameters, 0.0) == pytest.approx(squares**0.5, rel=1e-6)
    _clip(parameters, 0.5)
    assert sum(float((p.grad**2).sum()) for p in parameters.values()) ** 0.5 == pytest.approx(0.5, rel=1e-5)


def test_clipping_without_gradients_measures_nothing():
    assert _clip(dict(paddle.nn.Linear(3, 2).named_parameters()), 1.0) == 0.0


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
    assert _clip(dict(layer.named_parameters()), 1e-4) == pytest.approx(1e-3, rel=1e-5)
    assert layer.weight.grad.item() == pytest.approx(1e-4 / (1 + 1e-3), rel=1e-5), "1e-6 keeps the division finite"


def test_the_defaults_are_those_of_the_argument_files():
    assert AdamSettings() == AdamSettings(beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0)


@pytest.fixture
def compiled():
    """Updates by compiled kernels, where there is a compiler."""
    found, reason = find_core()
    if found is None and "no C++ compiler" in reason:
        pytest.skip(reason)
    use_native_ops(True)
    yield found
    use_native_ops(False)


def _updates(gradients, cuts=(), steps=3, norm=None):
    """Return (norms, weights, moments) of updates with clipping; ``cuts`` are rows at which the matrix is divided."""
    rows = np.split(np.arange(gradients.shape[1]), cuts)
    start = np.random.default_rng(5).standard_normal(gradients.shape[1:]).astype("float32")
    pieces = {f"{i}.weight": paddle.to_tensor(start[r], stop_gradient=False) for i, r in enumerate(rows)}
    optimizer = NamedAdamW(pieces, AdamSettings(weight_decay=0.1))
    norms = []
    for step in range(steps):
        for piece, r in zip(pieces.values(), rows, strict=True):
            piece.grad = paddle.to_tensor(gradients[step][r])
        norms.append(gradient_norm(pieces))
        optimizer.step(0.01, gradient_scale=clip_factor(norms[-1] if norm is None else norm, 1.0))
    state = optimizer.state()
    moments = [np.concatenate([state[f"{name}/{field}"] for name in pieces]) for field in MOMENT_FIELDS]
    return norms, np.concatenate([p.numpy() for p in pieces.values()]), moments


GRADIENTS = np.random.default_rng(4).standard_normal((3, 300, 131)).astype("float32")


def test_the_compiled_update_is_paddles(compiled):
    """The largest relative difference: 1e-7 of the norm; of the weights 3e-7 and of the moments 2e-7 of the largest."""
    norms, weights, moments = _updates(GRADIENTS, norm=200.0)
    use_native_ops(False)
    wanted_norms, wanted_weights, wanted_moments = _updates(GRADIENTS, norm=200.0)
    np.testing.assert_allclose(norms, wanted_norms, rtol=1e-6)
    for found, wanted in zip([weights, *moments], [wanted_weights, *wanted_moments], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-7 * np.abs(wanted).max())


def test_the_compiled_update_is_adams_in_float64(compiled):
    norms, weights, _ = _updates(GRADIENTS)
    exact = np.random.default_rng(5).standard_normal(GRADIENTS.shape[1:]).astype("float32").astype("float64")
    first = second = 0.0
    for step, gradient in enumerate(GRADIENTS.astype("float64"), start=1):
        norm = np.sqrt((gradient**2).sum())
        assert norms[step - 1] == np.float32(norm)
        gradient = gradient / (norm + 1e-6)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        exact -= 0.01 * 0.1 * exact
        exact -= 0.01 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(weights, exact, atol=1e-6)


@pytest.mark.parametrize("cuts", [(7,), (100, 101, 299)])
def test_bits_do_not_depend_on_where_a_tensor_is_cut_nor_on_the_instructions(compiled, cuts):
    found = {}
    before = compiled.isa
    try:
        for isa in ISAS:
            try:
                compiled.set_isa(isa)
            except RuntimeError:
                continue
            found[isa] = _updates(GRADIENTS, cuts)
    finally:
        compiled.set_isa(before)
    norms, weights, moments = _updates(GRADIENTS)
    assert found
    for other_norms, other_weights, other_moments in found.values():
        assert other_norms == norms
        for one, other in zip([weights, *moments], [other_weights, *other_moments], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_compiled_update_continues_one_of_paddle_and_saves_the_same_state(compiled):
    layer = paddle.nn.Linear(3, 2)
    optimizer = NamedAdamW(dict(layer.named_parameters()), AdamSettings())
    use_native_ops(False)
    _backward(layer)
    optimizer.step(0.1)
    saved, weight = optimizer.state(), layer.weight.numpy()
    use_native_ops(True)
    other = paddle.nn.Linear(3, 2)
    for name, value in (("weight", weight), ("bias", layer.bias.numpy())):
        getattr(other, name).set_value(value)
    resumed = NamedAdamW(dict(other.named_parameters()), AdamSettings())
    resumed.load_state(saved)
    for model, its in ((layer, optimizer), (other, resumed)):
        _backward(model)
        its.step(0.1)
    assert sorted(resumed.state()) == sorted(saved)
    assert resumed.state()["weight/beta1_pow_acc_0"] == pytest.approx(0.9**3)
    for name, value in optimizer.state().items():
        np.testing.assert_array_equal(resumed.state()[name], value)
    np.testing.assert_array_equal(other.weight.numpy(), layer.weight.numpy())


def test_a_parameter_without_gradient_is_not_touched(compiled):
    layer = paddle.nn.Linear(3, 2)
    optimizer = NamedAdamW(dict(layer.named_parameters()), AdamSettings(weight_decay=0.5))
    before = layer.weight.numpy()
    layer.bias.sum().backward()
    optimizer.step(0.1)
    np.testing.assert_array_equal(layer.weight.numpy(), before)
    assert {key.partition("/")[0] for key in optimizer.state()} == {"bias"}


def test_what_the_compiled_update_cannot_do_paddles_does_and_the_log_says_so(compiled, monkeypatch):
    said = []
    monkeypatch.setattr(optimizers.log, "info", said.append)
    wide = paddle.to_tensor(np.ones((3, 2)), stop_gradient=False)
    optimizer = NamedAdamW({"wide.weight": wide}, AdamSettings())
    for _ in range(2):
        (wide * paddle.ones([3, 2], "float64")).sum().backward()
        optimizer.step(0.1, gradient_scale=0.5)
    np.testing.assert_allclose(wide.numpy(), 0.8, rtol=1e-6)
    assert said == ["AdamW: Paddle's operator instead of the compiled one, as wide.weight is float64 on Place(cpu)"]


def test_a_norm_that_is_not_finite_is_told(compiled):
    layer = paddle.nn.Linear(3, 2)
    for value in (np.nan, np.inf):
        layer.weight.grad = paddle.to_tensor(np.array([[value, 1.0]] * 3, np.float32))
        assert not np.isfinite(gradient_norm(dict(layer.named_parameters())))
