"""Regions without messages; with several processes see ``tests/distributed/test_tensor_models.py``."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.architecture.parts import even_cut
from alignment.parallel.comms.group import ALONE, Group
from alignment.parallel.tensor.regions import TensorRegion, embed_rows, enter, split_rows, sum_over_copies


class Mirror(Group):
    """A group whose other members all hold what this process holds."""

    def __init__(self, size, index):
        super().__init__("mirror", range(size), rank=index)

    def sum_(self, tensor, what=""):
        """See ``Group.sum_``."""
        return tensor.scale_(float(self.size))

    def gather(self, tensor, what=""):
        """See ``Group.gather``."""
        return [tensor] * self.size

    def reduce_scatter(self, tensor, what=""):
        """See ``Group.reduce_scatter``."""
        return tensor[self.index] * self.size


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_one_process_changes_nothing(sequence_parallel):
    x = paddle.ones([3, 2])
    region = TensorRegion(ALONE, 3, sequence_parallel)
    assert region.enter(x) is x and region.leave(x) is x and region.collect(x) is x and enter(x, ALONE) is x
    assert sum_over_copies(x, ALONE, copies=1) is x
    assert region.rows == 3


@pytest.mark.parametrize(("tokens", "size", "rows"), [(17, 4, 5), (16, 4, 4), (1, 4, 1), (5, 1, 5)])
def test_tokens_are_shared_out_evenly(tokens, size, rows):
    assert split_rows(tokens, size) == rows


def test_gradients_through_a_region():
    x = paddle.ones([3, 2])
    x.stop_gradient = False
    region = TensorRegion(Mirror(4, 1), 3)
    assert region.enter(x).tolist() == x.tolist()
    region.enter(x).sum().backward()
    assert x.grad.tolist() == [[4.0, 4.0]] * 3, "every process gives a share of the gradient"
    x.clear_grad()
    out = region.leave(x)
    assert out.tolist() == [[4.0, 4.0]] * 3 and x.tolist() == [[1.0, 1.0]] * 3, "the argument stays as it is"
    out.sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0]] * 3


def test_tokens_and_gradients_through_a_region_with_split_tokens():
    region = TensorRegion(Mirror(2, 1), 3, sequence_parallel=True)
    own = paddle.to_tensor([[1.0], [2.0]], stop_gradient=False)
    for gather, slope in ((region.enter, 2.0), (region.collect, 1.0)):
        every = gather(own)
        assert every.tolist() == [[1.0], [2.0], [1.0]], "the padding behind the last token is dropped"
        (every * paddle.to_tensor([[1.0], [10.0], [100.0]])).sum().backward()
        assert own.grad.tolist() == [[100.0 * slope], [0.0]], "the second process holds the third token and padding"
        own.clear_grad()
    partial = paddle.to_tensor([[1.0], [2.0], [3.0]], stop_gradient=False)
    left = region.leave(partial)
    assert left.tolist() == [[6.0], [0.0]]
    (left * paddle.to_tensor([[5.0], [7.0]])).sum().backward()
    assert partial.grad.tolist() == [[5.0], [7.0], [5.0]]


def test_rows_of_all_processes_add_up_to_the_embedding():
    weight = np.random.default_rng(0).standard_normal((10, 4))
    ids = paddle.to_tensor([0, 9, 3, 4, 3])
    cuts = [even_cut(10, 3, index) for index in range(3)]
    pieces = [paddle.to_tensor(weight[a:b], stop_gradient=False) for a, b in cuts]
    rows = sum(embed_rows(ids, piece, first_row=a) for piece, (a, _) in zip(pieces, cuts, strict=True))
    assert np.array_equal(rows.numpy(), weight[ids.numpy()])
    rows.sum().backward()
    counts = np.concatenate([piece.grad.numpy()[:, 0] for piece in pieces])
    assert counts.tolist() == [1, 0, 0, 2, 1, 0, 0, 0, 0, 1]


def test_ids_of_other_processes_do_not_meet_in_one_row():
    read = []
    weight = paddle.to_tensor(np.arange(12.0, dtype=np.float32).reshape(4, 3))

    def look_up(rows, table):
        read.append(rows.tolist())
        return paddle.nn.functional.embedding(rows, table)

    ids = paddle.to_tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    found = embed_rows(ids, weight, first_row=4, look_up=look_up)
    assert read == [[0, 1, 2, 3] * 3]
    assert found.tolist() == [[0.0] * 3] * 4 + weight.tolist() + [[0.0] * 3] * 4


@pytest.mark.parametrize(("copies", "wanted"), [(1, 1.0), (2, 4.0), (4, 4.0)])
def test_copies_are_summed_in_one_message(copies, wanted):
    gradient = paddle.ones([2, 3])
    found = sum_over_copies(gradient, Mirror(4, 3), copies=copies)
    assert found.tolist() == [[wanted] * 3] * 2 and gradient.tolist() == [[1.0] * 3] * 2
