"""Process rewards by hand: the loss of steps, and OpenRLHF's loss on the logits of two reward tokens."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from alignment.algorithms.process_rewards import process_loss


def loss_of(scores, labels, is_step, denominator):
    scores = paddle.to_tensor(np.array(scores, np.float32), stop_gradient=False)
    fields = {
        name: paddle.to_tensor(np.array(v, np.float32)) for name, v in (("step_labels", labels), ("is_step", is_step))
    }
    loss = process_loss(scores, fields=fields, hyperparameters=None, denominator=denominator)
    loss.value.backward()
    return loss, scores.grad.numpy()


def test_only_steps_count_and_all_of_them_alike():
    """Steps with scores 0 (good), log 3 (bad) and log 3 (0.75 good): log 2, log 4, and the entropy of 3 to 1."""
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    three = math.log(3)
    loss, grad = loss_of([[9.0, 0.0, three], [three, -9.0, 5.0]], [[0, 1, 0], [0.75, 1, 0]], [[0, 1, 1], [1, 0, 0]], 3)
    assert float(loss.value) == pytest.approx((math.log(2) + math.log(4) + entropy) / 3, rel=1e-6)
    assert float(loss.metrics["process/accuracy"].value) == pytest.approx(1 / 3)
    np.testing.assert_allclose(grad, [[0, -0.5 / 3, 0.75 / 3], [0, 0, 0]], atol=1e-7)


@pytest.mark.parametrize("label", [1.0, 0.0, 0.3])
def test_two_reward_tokens_are_one_score(label):
    """Their loss: cross-entropy of (label, 1 - label) on the log-softmax of the two tokens' logits."""
    good, bad = 1.7, -0.4
    total = math.log(math.exp(good) + math.exp(bad))
    expected = -(label * (good - total) + (1 - label) * (bad - total))
    loss, _ = loss_of([[good - bad]], [[label]], [[1]], 1)
    assert float(loss.value) == pytest.approx(expected, rel=1e-6)
