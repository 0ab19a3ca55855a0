"""PPO-Lagrangian's chain and its multiplier, against safe-rlhf."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from alignment.algorithms.lagrange import LagrangeMultiplier
from alignment.algorithms.on_policy.ppo_lagrangian import PPO_LAGRANGIAN, PPOLagrangianHyperparameters
from alignment.algorithms.on_policy.spec import Judged

START = 2
SAFE_RLHF = PPOLagrangianHyperparameters(clip_placement="token", policy_loss_reduction="sequence", clip_range_cost=50.0)


def test_ppo_lag(safe_rlhf, precision, close):
    inputs, expected = safe_rlhf["common_inputs"], safe_rlhf["ppo_lag"]

    def response(values, *, grad=False):
        return precision.tensor(np.asarray(values)[:, START:], grad=grad)

    mask = np.asarray(inputs["sequence_mask"], float)[:, START:]
    judged = Judged(
        scores=precision.tensor(inputs["reward"]),
        costs=precision.tensor(expected["cost"]),
        old_logprobs=response(inputs["log_probs_old"]),
        ref_logprobs=response(inputs["ref_log_probs"]),
        values=response(inputs["values_old"]),
        cost_values=response(expected["cost_values"]),
        mask=precision.tensor(mask),
        group_ids=paddle.arange(3),
        multiplier=expected["lambda"],
    )
    found = PPO_LAGRANGIAN.estimate(judged, hyperparameters=SAFE_RLHF)
    rewards, costs = (np.array(expected[f"{name}_advantages"]) for name in ("reward", "cost"))
    close(found.advantages, (rewards - 1.5 * costs) / 2.5)
    close(found.rewards, np.array(expected["rewards"])[:, START:] * mask)
    close(found.returns, (rewards + np.asarray(inputs["values_old"])[:, START:]) * mask)
    close(found.cost_returns, (costs + np.asarray(expected["cost_values"])[:, START:]) * mask)
    fields = {"old_logprobs": judged.old_logprobs, "advantages": found.advantages, "response_mask": judged.mask}
    logprobs = response(inputs["log_probs_new"], grad=True)
    loss = PPO_LAGRANGIAN.policy_loss(logprobs, fields, hyperparameters=SAFE_RLHF, denominator=3.0)
    close(loss.value, expected["actor_loss"])


def test_lagrange_update(safe_rlhf):
    given = safe_rlhf["lagrange_update"]
    multiplier = LagrangeMultiplier(
        initial=given["lambda_init"],
        threshold=given["threshold"],
        learning_rate=given["lambda_lr"],
        maximum=given["lambda_max"],
        delay=0,
        window=1,
    )
    for step in given["steps"]:
        metrics = multiplier.observe([step["episode_cost"]], num_updates=0)
        assert multiplier.log_value == pytest.approx(step["log_lambda"], abs=1e-12)
        assert metrics["train/lambda"].value == pytest.approx(step["lambda"], rel=1e-12)
    assert multiplier.value == math.exp(multiplier.log_value)
