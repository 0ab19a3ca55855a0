"""The gradient of an embedding: later micro-batches add to the rows they touch, in place."""

import numpy as np
import paddle
import pytest

from alignment.ops.embedding import embedding
from alignment.ops.native import update_ops
from alignment.ops.native.library import find_core
from alignment.ops.native.selection import use_native_ops


@pytest.fixture(autouse=True)
def switched_on():
    """Every test here needs the library, and leaves the switch as it was."""
    found, reason = find_core()
    if found is None and "no C++ compiler" in reason:
        pytest.skip(reason)
    assert found is not None, reason
    use_native_ops(True)
    yield
    use_native_ops(False)


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


@pytest.mark.parametrize("clears", [False, True])
def test_an_embedding_adds_to_the_rows_of_its_gradient_only(clears):
    """Three micro-batches with tokens that come twice: as Paddle in float64, in the gradient's own memory."""
    start, ids = draw(9, 130), np.array([[1, 3, 1, 6], [6, 6, 0, 1], [8, 1, 2, 2]])

    def gradient(dtype):
        weight = paddle.to_tensor(start.astype(dtype), stop_gradient=False)
        places = []
        for number, row in enumerate(ids):
            rows = embedding(paddle.to_tensor(row), weight)
            if clears and number == 1:
                weight.clear_gradient(False)
            (rows * rows * paddle.to_tensor(draw(4, 130, seed=number).astype(dtype))).sum().backward()
            places.append(weight.grad.data_ptr())
        return weight.grad.numpy(), places

    found, places = gradient("float32")
    exact, _ = gradient("float64")
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)
    assert not found[[4, 5, 7]].any()
    assert len(set(places[clears:])) == 1
    assert embedding(paddle.to_tensor(ids[0]), paddle.to_tensor(start.astype("float32"))).stop_gradient


def test_rows_outside_a_matrix_are_refused():
    total = paddle.zeros([3, 2])
    with pytest.raises(RuntimeError, match=r"add_rows: row 3 is not in 0 \.\. 2"):
        update_ops.add_rows(total, paddle.to_tensor([3]), paddle.ones([1, 2]))
    assert not total.numpy().any()
