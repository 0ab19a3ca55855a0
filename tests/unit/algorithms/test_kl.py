"""KL estimators against the true KL, and the adaptive coefficient."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.kl import adapt_kl_coeff, kl_estimate, kl_metrics, kl_with_unbiased_gradient
from alignment.algorithms.masked import TokenMean


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_zero_where_policies_agree(grid, kind):
    x = grid(0)
    assert not kl_estimate(x, x, kind=kind).numpy().any()


def test_k1_and_k3_estimate_the_true_kl():
    rng = np.random.default_rng(0)
    policy, reference = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
    logs = paddle.to_tensor(np.log(policy)), paddle.to_tensor(np.log(reference))
    true = float((policy * np.log(policy / reference)).sum())
    for kind in ("k1", "k3"):
        assert float((kl_estimate(*logs, kind=kind).numpy() * policy).sum()) == pytest.approx(true)


def test_k3_is_accurate_and_finite_in_float32():
    d = paddle.to_tensor([1e-4, 0.0, -500.0, 500.0])
    k3 = kl_estimate(d, paddle.zeros_like(d), kind="k3").numpy()
    assert k3[0] == pytest.approx(5e-9, rel=0.5) and k3[1] == 0
    assert np.isfinite(k3).all() and (k3 >= 0).all()


def test_clamp():
    d = paddle.to_tensor([-30.0, 3.0, 30.0])
    assert kl_estimate(d, paddle.zeros_like(d), clamp=10.0).tolist() == [-10.0, 3.0, 10.0]


def test_unbiased_gradient_is_that_of_the_kl():
    """Summed over all tokens with their probabilities, the gradient by the logits is the KL's own."""
    rng = np.random.default_rng(1)
    logits = paddle.to_tensor(rng.standard_normal(5), stop_gradient=False)
    reference = paddle.to_tensor(np.log(rng.dirichlet(np.ones(5))))
    old = paddle.to_tensor(np.log(rng.dirichlet(np.ones(5))))
    (direct,) = paddle.grad((_probs(logits) * (_logs(logits) - reference)).sum(), [logits])
    per_token = kl_with_unbiased_gradient(_logs(logits), reference, old_logprobs=old, weight_limit=1e9)
    (estimated,) = paddle.grad((paddle.exp(old) * per_token).sum(), [logits])
    np.testing.assert_allclose(estimated.numpy(), direct.numpy(), atol=1e-12)


def _logs(logits):
    return logits - paddle.log(paddle.exp(logits).sum())


def _probs(logits):
    return paddle.exp(_logs(logits))


def test_metrics(grid, mask):
    metrics = kl_metrics(grid(0), grid(1), mean=TokenMean(mask, 23.0))
    assert set(metrics) == {"kl/k1", "kl/k2", "kl/k3"}
    assert float(metrics["kl/k2"].value) > 0


@pytest.mark.parametrize(
    ("observed", "expected"), [(6.0, 0.1), (6.6, 0.1 * (1 + 0.1 * 0.5)), (60.0, 0.1 * 1.1), (0.0, 0.1 * 0.9)]
)
def test_adaptive_coefficient(observed, expected):
    adapted = adapt_kl_coeff(0.1, observed, target=6.0, horizon=512.0, num_rows=256)
    assert adapted == pytest.approx(expected)
