"""Runners of one process, and how micro-batches are shared when there are several."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.errors import UserError
from alignment.metrics import Metric
from alignment.parallel.build_runner import build_runner
from alignment.parallel.comms.group import ALONE
from alignment.parallel.dense import DenseRunner
from alignment.parallel.runner import Objective, set_training
from alignment.parallel.shares import Shares
from alignment.parallel.topology import Topology
from alignment.records import Loss, TokenBatch


def batch_of(*lengths: int, first_token: int = 1) -> TokenBatch:
    rows = [np.arange(first_token, first_token + length) for length in lengths]
    return TokenBatch.build(rows, [np.arange(1, length) for length in lengths], {"weight": np.ones(len(rows))})


class FakeGroup:
    """One of ``size`` processes in lockstep: ``gather_objects`` first collects, then hands out (two rounds)."""

    def __init__(self, size: int, index: int) -> None:
        self.size, self.index = size, index
        self.is_last = index == size - 1
        self.given, self.everyone = [], None

    def gather(self, tensor, what):
        return self._exchange(tensor)

    def gather_objects(self, value, what):
        return self._exchange(value)

    def _exchange(self, value):
        self.given.append(value)
        return [value] * self.size if self.everyone is None else self.everyone.pop(0)


def topology_of(**groups) -> SimpleNamespace:
    return SimpleNamespace(**{"world": ALONE, "pipeline": ALONE, "batch": ALONE, "place": "rank 1 (stage 0)", **groups})


def test_one_process_gets_the_list_and_the_items_back():
    shares, batches = Shares(), [batch_of(3), batch_of(2, 4)]
    taken = shares.take(batches, "forward")
    assert all(a is b for a, b in zip(taken, batches, strict=True))
    assert not any(shares.is_filler(index) for index in range(2))
    assert shares.collect(["a", "b"]) == ["a", "b"]


@given(size=st.integers(1, 5), count=st.integers(0, 13))
def test_shares_are_contiguous_equally_long_and_come_back_in_order(size, count):
    batches = [batch_of(2 + index) for index in range(count)]
    groups = [FakeGroup(size, index) for index in range(size)]
    shares = [Shares(topology_of(batch=group)) for group in groups]
    taken = [share.take(batches, "forward") for share in shares]
    assert len({len(part) for part in taken}) == 1
    own = [[b for i, b in enumerate(part) if not s.is_filler(i)] for s, part in zip(shares, taken, strict=True)]
    assert [b.num_targets for part in own for b in part] == [b.num_targets for b in batches]
    fillers = [b for s, part in zip(shares, taken, strict=True) for i, b in enumerate(part) if s.is_filler(i)]
    assert all(filler is batches[0] for filler in fillers)
    results = [[batch.num_targets for batch in part] for part in taken]
    for share, part in zip(shares, results, strict=True):
        share.collect(part)
    for group, share, part in zip(groups, shares, results, strict=True):
        group.everyone = [[other.given[-1] for other in groups]]
        assert share.collect(part) == [b.num_targets for b in batches]


def test_items_have_to_fit_the_last_call():
    shares = Shares()
    shares.take([batch_of(3)], "forward")
    with pytest.raises(AssertionError, match="2 items for 1 micro-batches"):
        shares.collect(["a", "b"])


OTHERS = {
    "operation": ("forward and backward", [batch_of(3, 5)]),
    "count": ("forward", [batch_of(3, 5), batch_of(2)]),
    "lengths": ("forward", [batch_of(4, 5)]),
    "ids": ("forward", [batch_of(3, 5, first_token=2)]),
    "fields": ("forward", [TokenBatch.build([np.arange(1, 4), np.arange(1, 6)], [np.arange(1, 3), np.arange(1, 5)])]),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_another_list_elsewhere_is_an_error_that_shows_both(difference):
    mine, others = FakeGroup(2, 1), FakeGroup(2, 0)
    operation, batches = OTHERS[difference]
    Shares(topology_of(world=others)).take(batches, operation)
    mine.everyone = [[others.given[0], None], ["rank 0 other", "rank 1 mine"]]
    own_batches = [batch_of(3, 5)]
    probe = FakeGroup(2, 1)
    Shares(topology_of(world=probe)).take(own_batches, "forward")
    mine.everyone[0][1] = probe.given[0]
    with pytest.raises(
        UserError, match=r"(?s)rank 1 \(stage 0\): all processes.*2 different.*rank 0 other.*rank 1 mine"
    ):
        Shares(topology_of(world=mine)).take(own_batches, "forward")
    assert mine.given[1].startswith("rank 1 (stage 0) forward of 1 micro-batch [2, 5] (8 tokens)")


class Toy(paddle.nn.Layer):
    """A score for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.table = paddle.nn.Embedding(9, 1)

    def scores(self, batch: TokenBatch) -> paddle.Tensor:
        return self.table(paddle.to_tensor(batch.input_ids)).squeeze(-1)


def objective() -> Objective:
    def loss(scores, batch):
        value = (scores**2).sum() / 7.0
        return Loss(value, {"loss": Metric(value.detach())})

    return Objective(Toy.scores, loss)


def test_those_that_ask_whether_passes_train_are_told(repo_root):
    model, models = Toy(), repo_root / "alignment" / "models"
    model.model = paddle.nn.Layer()
    for is_training in (False, True):
        set_training(model, is_training)
        assert model.training == model.model.training == is_training
    asking = {path.name for path in models.rglob("*.py") if "self.training" in path.read_text()}
    assert asking == {"decoder.py", "score_model.py"}, "set_training tells the model and its decoder only"


def test_a_dense_runner_does_what_a_plain_loop_does():
    model, batches = Toy(), [batch_of(3), batch_of(2, 4)]
    runner = build_runner(model, Topology(device="cpu"))
    assert isinstance(runner, DenseRunner)
    metrics = runner.forward_backward(batches, objective())
    assert model.training
    got = model.table.weight.grad.numpy()
    model.clear_gradients()
    for index, batch in enumerate(batches):
        value = (model.scores(batch) ** 2).sum() / 7.0
        value.backward()
        assert metrics[index]["loss"].value == value.numpy()
    np.testing.assert_array_equal(got, model.table.weight.grad.numpy())
    outputs = runner.forward(batches, lambda model, batch: (model.scores(batch), model.training))
    assert [(scores.shape, training) for scores, training in outputs] == [((1, 3), False), ((2, 4), False)]
    assert runner.share([1, 2]) == [1, 2]


def test_fillers_give_no_gradient_and_no_result():
    model, group = Toy(), FakeGroup(2, 1)
    runner = DenseRunner(model, topology_of(batch=group))
    metrics = runner.forward_backward([batch_of(5)], objective())
    assert group.given[-1] == [] and metrics == []
    assert not model.table.weight.grad.numpy().any()
