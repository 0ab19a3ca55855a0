"""The two parts of the loss of distillation, and their weights."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.distillation import DistillationHyperparameters, distillation_loss

OUTPUT = [[-1.0, -2.0, -3.0], [0.5, 0.25, 0.25], [-0.5, -0.5, -1.0]]


@pytest.mark.parametrize(("kd_coef", "value"), [(0.0, 6 / 4), (1.0, 1 / 4), (0.4, 0.6 * 6 / 4 + 0.4 * 1 / 4)])
def test_cross_entropy_and_divergence_share_the_loss(kd_coef, value):
    """Three tokens of an update that has four."""
    output = [paddle.to_tensor(part, stop_gradient=False) for part in OUTPUT]
    options = DistillationHyperparameters(kd_coef=kd_coef)
    loss = distillation_loss(tuple(output), fields={}, hyperparameters=options, denominator=4)
    loss.value.backward()
    assert float(loss.value) == pytest.approx(value)
    assert {name: pytest.approx(float(m.value)) for name, m in loss.metrics.items()} == {
        "kd/loss": value, "kd/ce": 6 / 4, "kd/divergence": 1 / 4, "kd/teacher_ce": 2 / 4,
    }  # fmt: skip
    np.testing.assert_allclose(output[0].grad.numpy(), (kd_coef - 1) / 4, rtol=1e-6)
    np.testing.assert_allclose(output[1].grad.numpy(), kd_coef / 4, rtol=1e-6)
    assert output[2].grad is None
