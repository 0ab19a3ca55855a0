"""Tensors in host memory while nobody uses them: nesting, failures, every dtype."""

import numpy as np
import paddle
import pytest

from alignment.device.offload import Offloaded, resident
from tests.offloaded import bytes_away


def _tensors():
    generator = np.random.default_rng(1)
    values = paddle.to_tensor(generator.standard_normal([4, 3]).astype("float32"))
    half = paddle.nn.Layer().create_parameter([2, 3], dtype="bfloat16")
    half.set_value(paddle.to_tensor(generator.standard_normal([2, 3]).astype("float32")).astype("bfloat16"))
    return {"float32": values, "bfloat16": half, "float64": values.astype("float64"), "int64": paddle.arange(5)}


def _copy(tensors):
    return {name: tensor.numpy().copy() for name, tensor in tensors.items()}


def test_tensors_are_away_outside_and_equal_inside():
    tensors = _tensors()
    before = _copy(tensors)
    owner = Offloaded("reference", tensors.items)
    assert not any(tensor._is_initialized() for tensor in tensors.values())
    assert bytes_away(owner) == 12 * 4 + 6 * 2 + 12 * 8 + 5 * 8
    for _ in range(2):
        with resident(owner):
            assert bytes_away(owner) == 0
            for name, value in _copy(tensors).items():
                assert value.dtype == before[name].dtype
                np.testing.assert_array_equal(value, before[name])
        assert not any(tensor._is_initialized() for tensor in tensors.values())


def test_what_changes_inside_is_kept():
    tensor = paddle.zeros([3])
    owner = Offloaded("policy", lambda: [("weight", tensor)])
    with resident(owner), paddle.no_grad():
        tensor.add_(paddle.ones([3]))
    with resident(owner):
        assert tensor.tolist() == [1.0, 1.0, 1.0]


def test_nested_uses_share_one_move_and_none_stands_for_what_stays():
    tensor = paddle.ones([3])
    owner = Offloaded("policy", lambda: [("weight", tensor)])
    with resident(owner, None, owner):
        with resident(None, owner):
            pass
        assert tensor.tolist() == [1.0, 1.0, 1.0]
    assert not tensor._is_initialized()


def test_a_failure_inside_moves_them_out_again():
    first, second = paddle.ones([3]), paddle.ones([2])
    owners = [Offloaded("first", lambda: [("a", first)]), Offloaded("second", lambda: [("b", second)])]
    with pytest.raises(RuntimeError, match="inside"), resident(*owners):
        raise RuntimeError("inside")
    assert not first._is_initialized()
    assert not second._is_initialized()
    with resident(*owners):
        assert [float(first.sum()), float(second.sum())] == [3.0, 2.0]


def test_owners_that_came_in_leave_when_a_later_one_cannot():
    tensor = paddle.ones([3])
    owner = Offloaded("first", lambda: [("a", tensor)])

    class Broken(Offloaded):
        def enter(self):
            raise MemoryError("no room")

    with pytest.raises(MemoryError), resident(owner, Broken("second", list)):
        pass
    assert not tensor._is_initialized()


def test_gradients_go_along_and_a_tensor_named_twice_goes_once():
    layer = paddle.nn.Linear(2, 2, bias_attr=False)
    layer(paddle.ones([1, 2])).sum().backward()
    weight = layer.weight

    def tensors():
        gradients = [] if weight.grad is None else [("gradient", weight.grad)]
        return [("weight", weight), ("same", weight), *gradients]

    owner = Offloaded("policy", tensors)
    assert bytes_away(owner) == 2 * 4 * 4
    assert weight.grad is None
    with resident(owner):
        assert weight.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]
        weight.clear_gradient(False)
    assert bytes_away(owner) == 4 * 4
