"""Probabilities of a pairwise preference model, averaged over both orders."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.letter_preference import letter_loss, preference_logits, win_rates


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_the_loss_is_the_cross_entropy_of_the_right_letter():
    output = paddle.to_tensor([[np.log(0.5), np.log(0.25)], [np.log(0.1), np.log(0.3)]], "float32")
    loss = letter_loss(output, fields={"is_first": paddle.to_tensor([1.0, 0.0])}, hyperparameters=None, denominator=2)
    assert float(loss.value) == pytest.approx(-(np.log(0.5) + np.log(0.1)) / 2, rel=1e-6)
    found = {name: float(metric.value) for name, metric in loss.metrics.items()}
    # The first answer gets 0.5 / 0.75 in the first comparison, and 0.3 / 0.4 in the second, where it is the wrong one.
    assert found["pairwise/first_share"] == pytest.approx((2 / 3 + 3 / 4) / 2, rel=1e-6)
    assert found["pairwise/accuracy"] == 0.5 and found["pairwise/loss"] == float(loss.value)


def test_a_liking_for_the_first_place_cancels():
    # It names the first answer with logit 2 in either order: the answers are equal.
    assert preference_logits([2.0], [2.0]).tolist() == [0.0]
    logit = preference_logits([1.5], [-0.5])
    assert sigmoid(logit) == pytest.approx((sigmoid([1.5]) + 1 - sigmoid([-0.5])) / 2, rel=1e-12)


def test_logits_do_not_overflow():
    assert preference_logits([800.0, -800.0], [-800.0, 800.0]).tolist() == [800.0, -800.0]


def test_win_rates_are_means_over_the_others_and_over_both_orders():
    ahead = np.array([[9.0, 1.0, 2.0], [0.5, 9.0, -1.0], [0.0, 3.0, 9.0]])
    chances = sigmoid(ahead)
    wins = {(i, j): (chances[i, j] + 1 - chances[j, i]) / 2 for i in range(3) for j in range(3)}
    expected = [np.mean([wins[i, j] for j in range(3) if j != i]) for i in range(3)]
    np.testing.assert_allclose(win_rates(ahead), expected, rtol=1e-12)
    assert win_rates(ahead).sum() == pytest.approx(1.5)
    # A model that always names the first answer cannot tell any apart.
    assert win_rates(np.full((2, 2), 5.0)) == pytest.approx([0.5, 0.5])
