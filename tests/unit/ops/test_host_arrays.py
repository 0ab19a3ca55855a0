"""Arrays arrive on the device as Paddle's own conversion brings them there."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.ops.host_arrays import from_host

ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "int64": np.arange(6, dtype=np.int64),
    "int32": np.arange(6, dtype=np.int32),
    "float64": np.arange(6) / 3,
    "bool": np.array([True, False]),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "strided": np.arange(12, dtype=np.int64)[::2],
    "empty": np.empty((0, 3), np.float32),
    "scalar": np.array(2.5, np.float32),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_values_shape_and_dtype_are_those_of_to_tensor(name):
    found, expected = from_host(ARRAYS[name]), paddle.to_tensor(ARRAYS[name])
    assert (found.dtype, found.shape, found.stop_gradient) == (expected.dtype, expected.shape, True)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    assert found.place._equals(expected.place)


def test_the_tensor_is_a_copy():
    array = np.ones(3, np.float32)
    array.flags.writeable = False
    tensor = from_host(array)
    tensor[0] = 5.0
    assert array.tolist() == [1, 1, 1]
