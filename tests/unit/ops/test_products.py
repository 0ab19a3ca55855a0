"""Products of linear layers and heads in float32, and with operands rounded to bfloat16."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.errors import ArgumentError
from alignment.ops import onednn, products
from alignment.ops.head_product import HeadProduct
from alignment.ops.linear import linear
from alignment.parallel.comms.group import ALONE
from alignment.runs import launch
from tests.bf16.rounded import matmul as rounded_matmul


@pytest.fixture
def rounding(monkeypatch):
    """Let products round, on a processor that may not be able to."""
    monkeypatch.setattr(onednn, "matmul", rounded_matmul)
    monkeypatch.setattr(products, "_rounds", False)
    products.round_operands(True)


def draw(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def rounded(array):
    """Return ``array`` in float64 after rounding to bfloat16, to the nearest, ties to even."""
    bits = np.ascontiguousarray(array).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("transpose_y", [False, True])
@pytest.mark.parametrize("transpose_x", [False, True])
def test_onednn_multiplies_matrices_that_are_kept_either_way(transpose_x, transpose_y):
    x, y = draw(*((5, 7) if transpose_x else (7, 5))), draw(*((9, 5) if transpose_y else (5, 9)))
    exact = (x.T if transpose_x else x) @ (y.T if transpose_y else y)
    for _ in range(2):
        found = onednn.matmul(*map(paddle.to_tensor, (x, y)), transpose_x=transpose_x, transpose_y=transpose_y)
        np.testing.assert_allclose(found.numpy(), exact, atol=1e-5)


def test_onednn_multiplies_empty_matrices_and_parts_of_matrices():
    assert onednn.matmul(paddle.ones([0, 3]), paddle.ones([3, 2])).shape == [0, 2]
    assert onednn.matmul(paddle.ones([0, 3]), paddle.ones([0, 2]), transpose_x=True).tolist() == [[0, 0]] * 3
    x = paddle.arange(12, dtype="float32").reshape([3, 4])
    np.testing.assert_array_equal(onednn.matmul(x[:, 1:3], paddle.eye(2)).numpy(), x.numpy()[:, 1:3])


def test_onednn_frees_products_that_are_no_longer_kept(monkeypatch):
    freed = []
    monkeypatch.setattr(onednn._library(), "drop", lambda kind, *made: freed.append((kind, len(made))))
    made = onednn._MatrixProduct(2, 3, 4, paddle.float32, transpose_x=False, transpose_y=False)
    freed.clear()
    del made
    assert sorted(freed) == [("memory", 3), ("primitive", 1)]


def test_a_linear_layer_rounds_its_operands_in_values_and_gradients(rounding):
    x, w, grad = draw(2, 6, 8), draw(8, 5), draw(2, 6, 5)
    inputs = [paddle.to_tensor(value, stop_gradient=False) for value in (x, w)]
    y = linear(*inputs)
    gradients = paddle.grad((y * paddle.to_tensor(grad)).sum(), inputs)
    rows, grads = (rounded(value).reshape(12, -1) for value in (x, grad))
    exact = (rounded(x) @ rounded(w), (grads @ rounded(w).T).reshape(x.shape), rows.T @ grads)
    for one, other in zip((y, *gradients), exact, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-5, atol=1e-5)
    assert np.abs(y.numpy() - x @ w).max() > 1e-3


@pytest.mark.parametrize("transposed", [False, True])
def test_a_head_rounds_its_operands_in_values_and_gradients(rounding, transposed):
    hidden, w, slope = draw(6, 8), draw(8, 5), draw(6, 5)
    weight = paddle.to_tensor(w.T.copy() if transposed else w, stop_gradient=False)
    head, tensors = HeadProduct(weight, transposed=transposed), [*map(paddle.to_tensor, (hidden, slope))]
    logits, hidden_grad = head.logits(tensors[0]), head.hidden_grad(tensors[1])
    total = head.add_weight_grad(None, *tensors)
    hidden, w, slope = map(rounded, (hidden, w, slope))
    np.testing.assert_allclose(logits.numpy(), hidden @ w, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(hidden_grad.numpy(), slope @ w.T, rtol=1e-5, atol=1e-5)
    exact = hidden.T @ slope
    np.testing.assert_allclose(total.numpy(), exact.T if transposed else exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient(rounding, frozen):
    inputs = [paddle.to_tensor(draw(4, 4), stop_gradient=i == frozen) for i in range(2)]
    linear(*inputs).sum().backward()
    assert [x.grad is None for x in inputs] == [i == frozen for i in range(2)]


def test_other_types_and_the_default_do_not_round(rounding):
    numbers = paddle.full([2, 2], 1.0 + 2.0**-10, "float64")
    assert float(linear(numbers, paddle.eye(2, dtype="float64"))[0, 0]) == 1.0 + 2.0**-10
    products.round_operands(False)
    numbers = numbers.astype("float32")
    assert float(linear(numbers, paddle.eye(2))[0, 0]) == 1.0 + 2.0**-10


def refuse(*matrices):
    raise onednn.OneDnnError("dnnl_matmul_primitive_desc_create returned 3")


def test_a_processor_that_cannot_is_refused_and_computes_in_float32(monkeypatch):
    monkeypatch.setattr(onednn, "matmul", refuse)
    monkeypatch.setattr(products, "_rounds", True)
    with pytest.raises(
        ArgumentError, match=r"float32_matmul_precision=medium needs .* returned 3 .* it can only be highest"
    ):
        launch.choose_precision(ALONE, wanted="medium")
    assert not products._rounds


@pytest.mark.parametrize(("own", "other"), [(None, "no AMX on rank 1"), ("no AMX on rank 0", None)])
def test_one_processor_that_cannot_is_refused_by_all_in_the_same_words(monkeypatch, own, other):
    monkeypatch.setattr(onednn, "find_obstacle", lambda: own)
    monkeypatch.setattr(products, "_rounds", True)
    world = SimpleNamespace(gather_objects=lambda value, what: [value, other])
    with pytest.raises(ArgumentError, match=rf": {own or other}; here"):
        launch.choose_precision(world, wanted="medium")
    assert not products._rounds


def test_processors_that_can_are_told_to_round(monkeypatch):
    monkeypatch.setattr(onednn, "find_obstacle", lambda: None)
    monkeypatch.setattr(products, "_rounds", False)
    launch.choose_precision(ALONE, wanted="medium")
    assert products._rounds
    launch.choose_precision(ALONE, wanted="highest")
    assert not products._rounds


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(onednn.paddle, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(onednn, "_library", onednn._OneDnn)
    assert "Paddle's oneDNN cannot be opened" in onednn.find_obstacle()


def test_the_products_of_this_processor_are_asked_once_and_right_where_there_are_any():
    """What only a processor with bfloat16 executes."""
    obstacle = onednn.find_obstacle()
    if obstacle is not None:
        assert "returned 3 for a product of bfloat16" in obstacle, "3: not implemented"
        return
    x, y = (paddle.to_tensor(draw(*shape)).astype("bfloat16") for shape in ((7, 96), (96, 5)))
    np.testing.assert_allclose(onednn.matmul(x, y).numpy(), rounded_matmul(x, y).numpy(), rtol=1e-5, atol=1e-5)
