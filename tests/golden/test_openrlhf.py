"""Records of OpenRLHF 0.11.2 (made in float32)."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.advantages import gae, reinforce_returns
from alignment.algorithms.bradley_terry import BradleyTerryHyperparameters, bradley_terry_loss
from alignment.algorithms.kl import kl_estimate, kl_with_unbiased_gradient
from alignment.algorithms.masked import TokenMean, count_units, masked_mean, masked_normalize
from alignment.algorithms.policy_losses import RatioClip, ppo_policy_loss
from alignment.algorithms.rewards import shape_rewards
from alignment.algorithms.supervised_losses import cross_entropy
from alignment.algorithms.value_losses import clipped_value_loss


def read(record, precision, grad=""):
    return {
        name: None if values is None else precision.tensor(values, grad=name == grad)
        for name, values in record["inputs"].items()
    }


def reduction_of(record):
    return "token" if record["params"]["token_level"] else "sequence"


def token_mean(record, mask):
    reduction = reduction_of(record)
    return TokenMean(mask, float(count_units(mask, reduction)), reduction)


@pytest.mark.parametrize("key", ["gae(gamma=1.0, lam=0.95)", "gae(gamma=0.9, lam=1.0)"])
def test_gae(openrlhf, precision, nearly, key):
    record = openrlhf[key]
    x, params = read(record, precision), record["params"]
    options = {"gamma": params["gamma"], "gae_lambda": params["lam"]}
    advantages, returns = gae(x["rewards"], x["values"], mask=x["mask"], **options)
    nearly(advantages, record["outputs"]["advantages"])
    nearly(returns, record["outputs"]["returns"])


@pytest.mark.parametrize("key", ["reinforce_returns(gamma=1.0)", "reinforce_returns(gamma=0.9)"])
def test_reinforce_returns(openrlhf, precision, nearly, key):
    record = openrlhf[key]
    x = read(record, precision)
    nearly(reinforce_returns(x["rewards"], x["mask"], gamma=record["params"]["gamma"]), record["outputs"]["returns"])


def test_masked_normalize(openrlhf, precision, nearly):
    record = openrlhf["masked_normalize(dim=1, eps=1e-08)"]
    x = read(record, precision)
    nearly(masked_normalize(x["x"], x["mask"], dim=1, eps=1e-8), record["outputs"]["y"])


def test_masked_mean(openrlhf, precision, nearly):
    record = openrlhf["masked_mean()"]
    x = read(record, precision)
    nearly(masked_mean(x["x"], x["mask"]), record["outputs"]["all"])
    nearly(masked_mean(x["x"], x["mask"], dim=1), record["outputs"]["rows"])


@pytest.mark.parametrize("key", ["kl_k1(clamp=10)", "kl_k2(clamp=10)", "kl_k3(clamp=10)"])
def test_kl(openrlhf, precision, nearly, key):
    record = openrlhf[key]
    x = read(record, precision, grad="logp")
    estimate = kl_estimate(x["logp"], x["ref"], kind=record["name"].removeprefix("kl_"), clamp=10.0)
    estimate.sum().backward()
    nearly(estimate, record["outputs"]["kl"])
    nearly(x["logp"].grad, record["outputs"]["grad_logp"])


@pytest.mark.parametrize(
    "key",
    [
        "kl_k1_unbiased_grad(is_weight_clip=10.0)",
        "kl_k2_unbiased_grad(is_weight_clip=10.0)",
        "kl_k3_unbiased_grad(is_weight_clip=10.0)",
    ],
)
def test_kl_with_unbiased_gradient(openrlhf, precision, nearly, key):
    record = openrlhf[key]
    x = read(record, precision, grad="logp")
    kind = record["name"].split("_")[1]
    estimate = kl_with_unbiased_gradient(x["logp"], x["ref"], old_logprobs=x["old"], kind=kind)
    estimate.sum().backward()
    nearly(estimate, record["outputs"]["kl"])
    nearly(x["logp"].grad, record["outputs"]["grad_logp"])


@pytest.mark.parametrize(
    "key", ["reward_shaping(clip=None, kl_coef=0.05)", "reward_shaping(clip=[-0.5, 0.5], kl_coef=0.05)"]
)
def test_reward_shaping(openrlhf, precision, nearly, key):
    record = openrlhf[key]
    x, clip = read(record, precision), record["params"]["clip"]
    limit = None if clip is None else clip[1]
    rewards = shape_rewards(x["score"], x["kl"], mask=x["mask"], kl_coeff=0.05, clip_range_score=limit)
    nearly(rewards, record["outputs"]["rewards"] * x["mask"].numpy())


@pytest.mark.parametrize(
    "key",
    [
        "policy_loss(token_level=True)",
        "policy_loss(clip_eps_high=0.28, clip_eps_low=0.2, token_level=True)",
        "policy_loss(dual_clip=3.0, token_level=True)",
        "policy_loss(token_level=False)",
        "policy_loss(clip_eps_high=0.28, clip_eps_low=0.2, token_level=False)",
        "policy_loss(dual_clip=3.0, token_level=False)",
        "policy_loss(policy_loss_type=gspo, token_level=True)",
        "policy_loss(policy_loss_type=gspo, token_level=False)",
    ],
)
def test_policy_loss(openrlhf, precision, nearly, key):
    record = openrlhf[key]
    x, params = read(record, precision, grad="logp"), record["params"]
    clip = RatioClip(params.get("clip_eps_low", 0.2), params.get("clip_eps_high", 0.2), params.get("dual_clip"))
    mean = token_mean(record, x["mask"])
    if params.get("policy_loss_type") == "gspo":
        clip = clip._replace(level="sequence")
        # OpenRLHF's mean is over responses then, whatever token_level says.
        mean = TokenMean(x["mask"], 4.0, "sequence")
    loss = ppo_policy_loss(x["logp"], x["old"], advantages=x["advantages"], clip=clip, mean=mean)
    loss.value.backward()
    nearly(loss.value, record["outputs"]["loss"])
    nearly(x["logp"].grad, record["outputs"]["grad_logp"])
    if mean.reduction == "token":
        nearly(loss.metrics["policy/clip_fraction"].value, record["outputs"]["clip_ratio"])
        nearly(loss.metrics["policy/approx_kl"].value, record["outputs"]["ppo_kl"])


@pytest.mark.parametrize(
    "key",
    [
        "value_loss(clip=None, token_level=True)",
        "value_loss(clip=0.2, token_level=True)",
        "value_loss(clip=None, token_level=False)",
        "value_loss(clip=0.2, token_level=False)",
    ],
)
def test_value_loss(openrlhf, precision, nearly, key):
    record = openrlhf[key]
    x = read(record, precision, grad="values")
    loss = clipped_value_loss(
        x["values"],
        x["old_values"],
        returns=x["returns"],
        clip_range=record["params"]["clip"],
        mean=token_mean(record, x["mask"]),
    )
    loss.value.backward()
    nearly(loss.value, record["outputs"]["loss"])
    nearly(x["values"].grad, record["outputs"]["grad_values"])


@pytest.mark.parametrize(
    ("key", "loss_type"),
    [
        ("pairwise_reward_loss()", "sequence-wise"),
        ("pairwise_reward_loss()#2", "sequence-wise"),
        ("logexp_reward_loss()", "logexp"),
    ],
)
def test_pairwise_reward_loss(openrlhf, precision, nearly, key, loss_type):
    """The gradient is that of the formula: -sigmoid(margin - gap) / 4 by the chosen score."""
    record = openrlhf[key]
    x = read(record, precision, grad="chosen")
    margin = x.get("margin")
    zeros = paddle.zeros([4], "int64")
    fields = {"better_ends": zeros, "worse_ends": zeros, **({} if margin is None else {"margin": margin})}
    options = BradleyTerryHyperparameters(loss_type=loss_type, margin_loss=margin is not None)
    scores = [x[side].unsqueeze(-1) for side in ("chosen", "rejected")]
    loss = bradley_terry_loss(*scores, fields=fields, hyperparameters=options, denominator=4)
    loss.value.backward()
    nearly(loss.value, record["outputs"]["loss"])
    gap = (x["chosen"] - x["rejected"]).numpy() - (0.0 if margin is None else margin.numpy())
    nearly(x["chosen"].grad, -1 / (1 + np.exp(gap)) / 4)


def test_sft_loss(openrlhf, precision, nearly):
    record = openrlhf["sft_loss()"]
    x = read(record, precision)
    targets = paddle.masked_select(x["logp"], x["mask"] > 0)
    nearly(cross_entropy(targets, denominator=targets.shape[0]).value, record["outputs"]["token"])
    nearly(TokenMean(x["mask"], 4.0, "sequence").of(-x["logp"]), record["outputs"]["sample"])
