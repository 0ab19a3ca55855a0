"""Flat buckets of rows: what goes in comes out, whatever the shapes and the number of pieces."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.architecture.parts import even_cut
from alignment.parallel.sharding.buckets import RowBucket, make_buckets

SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)


def _tensors(shapes):
    generator = np.random.default_rng(0)
    return {f"p{i}": paddle.to_tensor(generator.standard_normal(s).astype("float32")) for i, s in enumerate(shapes)}


@settings(max_examples=40)
@given(SHAPES, st.integers(1, 4))
def test_pieces_hold_the_rows_of_each_process_and_make_the_whole_again(shapes, pieces):
    tensors = _tensors(shapes)
    bucket = RowBucket(dict(zip(tensors, shapes, strict=True)), pieces)
    packed = bucket.pack(tensors, "float32")
    assert packed.shape == [pieces, bucket.length]
    for index in range(pieces):
        rows = bucket.split(packed[index], index)
        for name, tensor in tensors.items():
            start, stop = even_cut(tensor.shape[0], pieces, index)
            assert (name in rows) == (stop > start)
            if stop > start:
                np.testing.assert_array_equal(rows[name].numpy(), tensor[start:stop].numpy())
        np.testing.assert_array_equal(bucket.pack_rows(rows, index, "float32").numpy(), packed[index].numpy())
    for name, whole in bucket.join(list(packed)).items():
        np.testing.assert_array_equal(whole.numpy(), tensors[name].numpy())


@pytest.mark.parametrize("missing", ["p0", "p1"])
def test_zeros_stand_for_what_is_missing(missing):
    tensors = _tensors([(3, 2), (5,)])
    bucket = RowBucket({"p0": (3, 2), "p1": (5,)}, 2)
    found = bucket.join(list(bucket.pack({name: t for name, t in tensors.items() if name != missing}, "float64")))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name].numpy(), tensor.numpy() * (name != missing))
        assert found[name].dtype == paddle.float64


def test_buckets_keep_the_order_and_hold_one_dtype_and_about_the_limit():
    tensors = _tensors([(4,), (4,), (100,), (2,), (3,)])
    tensors["p3"] = tensors["p3"].astype("bfloat16")
    buckets = make_buckets(tensors, pieces=2, limit=40)
    assert [list(bucket.shapes) for bucket in buckets] == [["p0", "p1"], ["p2"], ["p3"], ["p4"]]
