"""Presets: the peers' recorded numbers from the options that a file with ``preset`` assembles, values and gradients."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.kl import kl_estimate
from alignment.algorithms.masked import TokenMean
from alignment.algorithms.on_policy.spec import Judged
from alignment.arguments.peers.presets import PRESETS
from alignment.runs.on_policy.algorithm import ChosenAlgorithm
from alignment.trainers.ppo.arguments import parse_ppo_arguments
from tests.golden.test_safe_rlhf_ppo import PADDLENLP, START, estimated, response, update_fields
from tests.golden.test_trl import scores_and_groups

FILE = {"train_datasets": "p", "actor_model_name_or_path": "a", "reward_model_name_or_path": "r", "output_dir": "o"}


def _chosen(preset, **given):
    """The algorithm and its hyperparameters as a run assembles them."""
    chosen = ChosenAlgorithm.of(parse_ppo_arguments({**FILE, "preset": preset, **given}))
    return chosen.spec, chosen.hyperparameters


def _learned(loss, output, fields, hyperparameters, denominator):
    found = loss(output, fields, hyperparameters=hyperparameters, denominator=denominator)
    found.value.backward()
    return found.value, output.grad


CHAINS = {
    "safe-rlhf": (
        lambda cases: cases["ppo_pipeline"]["new"],
        {"advantages": "advantages", "returns": "returns", "rewards": "rewards_with_kl"},
        0,
    ),
    "paddlenlp": (
        lambda cases: {name: cases[f"paddlenlp.{name}"] for name in PADDLENLP},
        {
            "advantages": "reward_advantages_full_len",
            "returns": "reward_returns_full_len",
            "rewards": "rewards_with_kl",
        },
        START,
    ),
}


@pytest.mark.parametrize("preset", CHAINS)
def test_the_whole_chain_of_ppo(safe_rlhf, precision, close, preset):
    read, names, start = CHAINS[preset]
    expected, inputs = read(safe_rlhf), safe_rlhf["common_inputs"]
    spec, numbers = _chosen(preset)
    judged, _ = estimated(inputs, precision, numbers)
    estimate = spec.estimate(judged, hyperparameters=numbers)
    mask = judged.mask.numpy()
    for name, recorded in names.items():
        begin = START if name == "rewards" else start
        close(getattr(estimate, name), np.array(expected[recorded])[:, begin:] * mask)
    fields, denominator = update_fields(judged, estimate), spec.count_units(mask, hyperparameters=numbers)
    for loss, key, name, gradient in (
        (spec.policy_loss, "log_probs_new", "actor_loss", "d_actor_loss_d_log_probs"),
        (spec.value_loss, "values_new", "critic_loss", "d_critic_loss_d_values"),
    ):
        value, slope = _learned(loss, response(inputs[key], precision, grad=True), fields, numbers, denominator)
        close(value, expected[name])
        close(slope, np.array(expected[gradient])[:, START:])


def _tensors(record, precision, grad=None):
    return {name: precision.tensor(value, grad=name == grad) for name, value in record["inputs"].items()}


@pytest.mark.parametrize(
    ("preset", "given", "key"),
    [
        ("openrlhf", {}, "policy_loss(token_level=True)"),
        ("openrlhf", {"policy_loss_reduction": "sequence"}, "policy_loss(token_level=False)"),
        ("verl", {}, "policy_loss(dual_clip=3.0, token_level=True)"),
        ("verl", {"rl_algorithm": "grpo", "num_return_sequences": 2}, "policy_loss(dual_clip=3.0, token_level=True)"),
    ],
)
def test_openrlhfs_policy_loss(openrlhf, precision, nearly, preset, given, key):
    """Verl's has the same dual clip, which OpenRLHF leaves out by default."""
    record = openrlhf[key]
    spec, numbers = _chosen(preset, **given)
    x = _tensors(record, precision, "logp")
    fields = {"old_logprobs": x["old"], "advantages": x["advantages"], "response_mask": x["mask"]}
    denominator = spec.count_units(x["mask"].numpy(), hyperparameters=numbers)
    value, slope = _learned(spec.policy_loss, x["logp"], fields, numbers, denominator)
    nearly(value, record["outputs"]["loss"])
    nearly(slope, record["outputs"]["grad_logp"])


@pytest.mark.parametrize(
    ("preset", "given"),
    [("trl", {}), ("openrlhf", {"clip_range_value": 0.2}), ("verl", {"clip_range_value": 0.2})],
)
def test_the_value_loss_clipped_to_a_fifth(openrlhf, precision, nearly, preset, given):
    record = openrlhf["value_loss(clip=0.2, token_level=True)"]
    spec, numbers = _chosen(preset, **given)
    x = _tensors(record, precision, "values")
    fields = {"values": x["old_values"], "returns": x["returns"], "response_mask": x["mask"]}
    denominator = spec.count_units(x["mask"].numpy(), hyperparameters=numbers)
    value, slope = _learned(spec.value_loss, x["values"], fields, numbers, denominator)
    nearly(value, record["outputs"]["loss"])
    nearly(slope, record["outputs"]["grad_values"])


@pytest.mark.parametrize(
    ("preset", "given", "key", "ddof"),
    [
        ("openrlhf", {"gamma": 0.9}, "gae(gamma=0.9, lam=1.0)", 0),
        ("verl", {"gamma": 0.9}, "gae(gamma=0.9, lam=1.0)", 1),
        ("trl", {}, "gae(gamma=1.0, lam=0.95)", 1),
    ],
)
def test_advantages_are_whitened_with_the_peers_variance(openrlhf, precision, nearly, preset, given, key, ddof):
    """The rewards of the record as KL penalties of weight 1; TRL and verl use the unbiased variance."""
    record = openrlhf[key]
    spec, numbers = _chosen(preset, kl_coeff=1.0, **given)
    x = _tensors(record, precision)
    judged = Judged(
        scores=paddle.zeros([4], precision.dtype),
        old_logprobs=paddle.zeros_like(x["values"]),
        ref_logprobs=x["rewards"],
        values=x["values"],
        mask=x["mask"],
        group_ids=paddle.arange(4),
    )
    estimate = spec.estimate(judged, hyperparameters=numbers)
    on = x["mask"].numpy() > 0
    nearly(estimate.returns, np.array(record["outputs"]["returns"]) * on)
    advantages = np.array(record["outputs"]["advantages"])
    white = (advantages - advantages[on].mean()) / advantages[on].std(ddof=ddof) * on
    nearly(estimate.advantages, white)


def _rewards(preset, score, log_ratio, precision, **given):
    spec, numbers = _chosen(preset, **given)
    width = log_ratio.shape[1]
    judged = Judged(
        scores=precision.tensor(score),
        old_logprobs=precision.tensor(log_ratio),
        ref_logprobs=paddle.zeros([len(score), width], precision.dtype),
        values=paddle.zeros([len(score), width], precision.dtype),
        mask=paddle.ones([len(score), width], precision.dtype),
        group_ids=paddle.arange(len(score)),
    )
    return spec.estimate(judged, hyperparameters=numbers).rewards.numpy()


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        # kl_coeff * (30, -2) nats, and a score of 60.
        ("paddlenlp", [-0.02 * 30, 0.02 * 2 + 50]),
        ("trl", [-0.05 * 30, 0.05 * 2 + 60]),
        ("openrlhf", [-0.01 * 10, 0.01 * 2 + 10]),
        ("verl", [0, 60]),
        ("safe-rlhf", [-0.02 * 30, 50]),
    ],
)
def test_what_each_peer_clips_in_a_reward(precision, preset, expected):
    found = _rewards(preset, [60.0], np.array([[30.0, -2.0]]), precision)
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_openrlhfs_rewards(openrlhf, precision, nearly):
    record = openrlhf["reward_shaping(clip=None, kl_coef=0.05)"]
    spec, numbers = _chosen("openrlhf", kl_coeff=0.05)
    x = _tensors(record, precision)
    zeros = paddle.zeros_like(x["kl"])
    judged = Judged(x["score"], x["kl"], x["mask"], paddle.arange(4), ref_logprobs=zeros, values=zeros)
    rewards = spec.estimate(judged, hyperparameters=numbers).rewards
    nearly(rewards, np.array(record["outputs"]["rewards"]) * x["mask"].numpy())


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_trls_group_advantages(trl, precision, nearly, scale):
    record = trl[f"grpo_advantage(scale_rewards={scale})"]
    spec, numbers = _chosen("trl", rl_algorithm="grpo", scale_rewards=scale)
    scores, groups = scores_and_groups(record, precision)
    one = paddle.ones([scores.shape[0], 1], precision.dtype)
    judged = Judged(scores, one, one, groups)
    estimate = spec.estimate(judged, hyperparameters=numbers)
    nearly(estimate.advantages.flatten(), np.asarray(record["outputs"]["advantages"]).flatten())


@pytest.mark.parametrize(("name", "given"), [("dapo", {}), ("grpo", {"policy_loss_reduction": "sequence"})])
def test_trls_grpo_loss(trl, precision, nearly, name, given):
    options = "beta=0.04, epsilon_high=0.28, epsilon_low=0.2, level=token, max_completion_length=7"
    record = trl[f"grpo_loss_{name}({options})"]
    spec, numbers = _chosen("trl", rl_algorithm="grpo", clip_range_ratio_high=0.28, **given)
    assert numbers.kl_loss_coeff == 0 and not spec.needs_reference(numbers)
    x = _tensors(record, precision, "logp")
    advantages = x["advantages"].unsqueeze(-1).expand_as(x["logp"])
    fields = {"old_logprobs": x["old"], "advantages": advantages, "response_mask": x["mask"]}
    denominator = spec.count_units(x["mask"].numpy(), hyperparameters=numbers)
    loss = spec.policy_loss(x["logp"], fields, hyperparameters=numbers, denominator=denominator)
    # The record has a KL of weight 0.04, which TRL 1.16 weighs by the ratio (said by the preset).
    mean = TokenMean(x["mask"], denominator, numbers.policy_loss_reduction)
    total = loss.value + 0.04 * mean.of(kl_estimate(x["logp"], x["ref"], kind="k3") * paddle.exp(x["logp"] - x["old"]))
    total.backward()
    nearly(total, record["outputs"]["loss"])
    nearly(x["logp"].grad, record["outputs"]["grad_logp"])


@pytest.mark.parametrize("algorithm", PRESETS["paddlenlp"])
def test_the_preset_of_paddlenlp_is_what_is_done_without_one(algorithm):
    given = {**FILE, "rl_algorithm": algorithm, "num_return_sequences": 2}
    plain, preset = (parse_ppo_arguments({**given, **more}).as_dict() for more in ({}, {"preset": "paddlenlp"}))
    assert preset == {**plain, "preset": "paddlenlp"}
