"""Cross-entropy of supervised fine-tuning, with and without label smoothing."""

from __future__ import annotations

import math

import paddle
import pytest

from alignment.algorithms.supervised_losses import SupervisedHyperparameters, sft_loss

FOURTH = math.log(1 / 4)


def _loss(output, share):
    hyperparameters = SupervisedHyperparameters(label_smoothing=share)
    value, metrics = sft_loss(output, fields={}, hyperparameters=hyperparameters, denominator=8)
    return float(value), {name: float(metric.value) for name, metric in metrics.items()}


def test_the_loss_is_the_mean_of_all_targets_of_the_update():
    value, metrics = _loss((paddle.to_tensor([-1.0, -3.0]), None), 0.0)
    assert value == metrics["sft/loss"] == pytest.approx(4 / 8) and list(metrics) == ["sft/loss"]


def test_smoothing_by_hand():
    """A uniform model loses nothing by it; a certain one pays the share of what all other tokens cost."""
    uniform = paddle.full([8], FOURTH)
    assert _loss((uniform, uniform), 0.3)[0] == pytest.approx(-FOURTH)
    certain, averages = paddle.zeros([8]), paddle.full([8], -30.0)
    value, metrics = _loss((certain, averages), 0.1)
    assert value == metrics["sft/loss"] == pytest.approx(3.0) and metrics["sft/nll"] == 0.0
