"""The balancing loss, its slopes and the loads of experts, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.architecture.experts import Experts
from alignment.models.decoder.balancing import ExpertBalance, balancing_loss, load_statistics, loss_slopes
from alignment.parallel.comms.group import Group
from alignment.parallel.tensor.regions import TensorRegion

EVEN = np.array([[4.0, 4.0], [4.0, 4.0]])
UNEVEN = np.array([[8.0, 0.0], [6.0, 2.0]])
"""Counts of two experts in two layers, for 8 tokens with one expert each."""


def balance():
    return ExpertBalance(Experts(count=2, top_k=1, inner=4), 2)


def test_the_loss_is_the_number_of_chosen_experts_at_balance():
    assert balancing_loss(EVEN, EVEN, 8) == pytest.approx(1.0)
    assert balancing_loss(2 * EVEN, EVEN, 8) == pytest.approx(2.0)


def test_slopes_are_the_gradient_of_the_loss():
    sums, step = np.array([[5.0, 3.0], [4.0, 4.0]]), 1e-3
    for expert in range(2):
        moved = sums.copy()
        moved[1, expert] += step
        change = balancing_loss(UNEVEN, moved, 8) - balancing_loss(UNEVEN, sums, 8)
        assert 0.3 * change / step == pytest.approx(loss_slopes(UNEVEN, 8, 0.3)[expert])


def test_loads():
    assert load_statistics(EVEN) == {"load_max": 1.0, "load_entropy": pytest.approx(1.0), "unused_experts": 0.0}
    found = load_statistics(UNEVEN)
    assert found["load_max"] == pytest.approx((2 * 1.0 + 2 * 0.75) / 2)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(2)
    assert (found["load_entropy"], found["unused_experts"]) == (pytest.approx(entropy / 2), 1.0)


@pytest.mark.parametrize(("index", "held"), [(0, 2), (1, 1)])
def test_slopes_reach_real_tokens_only(index, held):
    region = TensorRegion(Group("tensor", [0, 1], rank=index), 3, sequence_parallel=True)
    counted = balance()
    counted.slopes = np.array([1.0, -2.0])
    x = paddle.zeros([2, 2])
    x.stop_gradient = False
    counted.slope(x, region).sum().backward()
    assert x.grad.tolist() == [[2.0, -1.0]] * held + [[1.0, 1.0]] * (2 - held)


def test_gradients_are_counted_where_no_slopes_are_added():
    counted, probabilities = balance(), paddle.to_tensor([[0.75, 0.25]])
    counted.count(1, probabilities, np.array([[0]]))
    counted.slopes = np.zeros(2)
    counted.count(1, probabilities, np.array([[0]]))
    with paddle.no_grad():
        counted.count(0, probabilities, np.array([[1]]))
        counted.is_counting = True
        counted.count(0, probabilities, np.array([[1]]))
    assert counted.counts.tolist() == [[0, 1], [1, 0]]
    assert counted.probabilities.tolist() == [[0.75, 0.25]] * 2
    counted.clear()
    assert not counted.counts.any() and counted.slopes is None
