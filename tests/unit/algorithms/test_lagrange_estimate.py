"""PPO-Lagrangian's advantages: the cost side has every number of PPO."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.on_policy.ppo_lagrangian import PPO_LAGRANGIAN, PPOLagrangianHyperparameters
from alignment.algorithms.on_policy.spec import Judged

ONES = paddle.ones([2, 2], "float64")
JUDGED = Judged(
    scores=paddle.to_tensor([1.0, 3.0], "float64"),
    costs=paddle.to_tensor([2.0, -2.0], "float64"),
    old_logprobs=ONES * paddle.to_tensor([[4.0, -4.0]], "float64"),
    ref_logprobs=0 * ONES,
    values=0 * ONES,
    cost_values=0 * ONES,
    mask=ONES,
    group_ids=paddle.arange(2),
    multiplier=1.0,
)
SUMS = PPOLagrangianHyperparameters(kl_coeff=1.0, gae_lambda=1.0, kl_limit=0.5)


def test_the_kl_limit_holds_for_the_cost_too():
    """KL 4 and -4, limited to 0.5 and -0.5: rewards (-.5, s + .5) and costs (.5, c - .5), summed from each token on."""
    found = PPO_LAGRANGIAN.estimate(JUDGED, hyperparameters=SUMS)
    np.testing.assert_allclose(found.returns, [[1, 1.5], [3, 3.5]])
    np.testing.assert_allclose(found.cost_returns, [[2, 1.5], [-2, -2.5]])
    np.testing.assert_allclose(found.advantages, [[-0.5, 0], [2.5, 3]])


@pytest.mark.parametrize(("variance", "divisor"), [("unbiased", 3), ("biased", 4)])
def test_advantages_are_normalised_by_the_variance_asked_for(variance, divisor):
    chosen = {"kl_coeff": 1.0, "gae_lambda": 1.0, "kl_limit": 0.5, "normalize_advantage": True}
    numbers = PPOLagrangianHyperparameters(**chosen, advantage_variance=variance)
    found = PPO_LAGRANGIAN.estimate(JUDGED, hyperparameters=numbers)
    centred = np.array([[-0.5, 0], [2.5, 3]]) - 1.25
    np.testing.assert_allclose(found.advantages, centred / np.sqrt((centred**2).sum() / divisor), rtol=1e-6)
