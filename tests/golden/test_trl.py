"""Records of TRL 1.16.0 (made in float32) that the parts built here reproduce."""

from __future__ import annotations

from functools import partial

import numpy as np
import paddle
import pytest

from alignment.algorithms.advantages import group_normalized, leave_one_out
from alignment.algorithms.kl import kl_estimate
from alignment.algorithms.masked import TokenMean, masked_mean, masked_whiten
from alignment.algorithms.policy_losses import RatioClip, cispo_loss, ppo_policy_loss, sapo_loss

TRL_EPS = 1e-4


def scores_and_groups(record, precision):
    scores = precision.tensor(record["inputs"]["rewards"])
    return scores, paddle.to_tensor(np.arange(scores.shape[0]) // record["inputs"]["group"])


@pytest.mark.parametrize(
    "key",
    [
        "grpo_advantage(scale_rewards=group)",
        "grpo_advantage(scale_rewards=batch)",
        "grpo_advantage(scale_rewards=none)",
    ],
)
def test_grpo_advantage(trl, precision, nearly, key):
    record = trl[key]
    scores, group_ids = scores_and_groups(record, precision)
    advantages = group_normalized(scores, group_ids, scale=record["params"]["scale_rewards"], eps=TRL_EPS)
    nearly(advantages, record["outputs"]["advantages"])


def test_rloo_advantage(trl, precision, nearly):
    record = trl["rloo_advantage(normalize_advantages=False)"]
    nearly(leave_one_out(*scores_and_groups(record, precision)), record["outputs"]["advantages"])


def test_rloo_advantage_normalized(trl, precision, nearly):
    record = trl["rloo_advantage(normalize_advantages=True)"]
    advantages = leave_one_out(*scores_and_groups(record, precision))
    whitened = masked_whiten(advantages, paddle.ones_like(advantages), unbiased=True, eps=TRL_EPS)
    nearly(whitened, record["outputs"]["advantages"])


def clipped(**options):
    return lambda *logprobs, **rest: ppo_policy_loss(*logprobs, clip=RatioClip(0.2, 0.28, **options), **rest)


@pytest.mark.parametrize(
    ("key", "loss", "reduction", "denominator"),
    [
        (
            "grpo_loss_grpo(beta=0.04, epsilon_high=0.28, epsilon_low=0.2, level=token, max_completion_length=7)",
            clipped(),
            "sequence",
            4.0,
        ),
        (
            "grpo_loss_bnpo(beta=0.04, epsilon_high=0.28, epsilon_low=0.2, level=token, max_completion_length=7)",
            clipped(),
            "token",
            17.0,
        ),
        (
            "grpo_loss_dapo(beta=0.04, epsilon_high=0.28, epsilon_low=0.2, level=token, max_completion_length=7)",
            clipped(),
            "token",
            17.0,
        ),
        (
            "grpo_loss_dr_grpo(beta=0.04, epsilon_high=0.28, epsilon_low=0.2, level=token, max_completion_length=7)",
            clipped(),
            "constant",
            4.0,
        ),
        # GSPO.
        (
            "grpo_loss_grpo(beta=0.04, epsilon_high=0.28, epsilon_low=0.2, level=sequence, max_completion_length=7)",
            clipped(level="sequence"),
            "sequence",
            4.0,
        ),
        # TRL's epsilon_high is the cap itself here, not its distance from 1.
        (
            "grpo_loss_cispo(beta=0.04, epsilon_high=5.0, epsilon_low=0.2, level=token, max_completion_length=7)",
            partial(cispo_loss, cap=5.0, level="token"),
            "token",
            17.0,
        ),
        (
            "grpo_loss_sapo(beta=0.04, epsilon_high=0.28, epsilon_low=0.2, level=token, max_completion_length=7)",
            partial(sapo_loss, temperatures=(1.0, 1.05), level="token"),
            "sequence",
            4.0,
        ),
    ],
)
def test_grpo_loss_is_made_of_the_same_parts(trl, precision, nearly, key, loss, reduction, denominator):
    record = trl[key]
    x = {name: precision.tensor(values, grad=name == "logp") for name, values in record["inputs"].items()}
    mean = TokenMean(x["mask"], denominator, reduction, record["params"]["max_completion_length"])
    advantages = x["advantages"].unsqueeze(-1).expand_as(x["logp"])
    found = loss(x["logp"], x["old"], advantages=advantages, mean=mean)
    # TRL 1.16 weighs k3 by the ratio, gradient included, to correct for tokens of an older policy.
    log_ratio = x["logp"] - x["old"]
    if "level=sequence" in key:
        log_ratio = masked_mean(log_ratio, x["mask"], dim=-1).unsqueeze(-1)
    kl = kl_estimate(x["logp"], x["ref"], kind="k3") * paddle.exp(log_ratio)
    total = found.value + record["params"]["beta"] * mean.of(kl)
    total.backward()
    nearly(total, record["outputs"]["loss"])
    nearly(x["logp"].grad, record["outputs"]["grad_logp"])
