"""The PPO chain of safe-rlhf (its new and old forms) and of PaddleNLP."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.algorithms.advantages import gae, group_normalized
from alignment.algorithms.kl import kl_estimate, kl_metrics
from alignment.algorithms.masked import TokenMean, count_units, masked_mean, masked_sum, masked_whiten
from alignment.algorithms.on_policy.ppo import PPO, PPOHyperparameters
from alignment.algorithms.on_policy.spec import Judged
from alignment.algorithms.rewards import shape_rewards
from alignment.algorithms.supervised_losses import cross_entropy

START = 2
SUITES = {"new": ("token", "sequence"), "old": ("score", "token")}


def response(values, precision, *, grad=False):
    return precision.tensor(np.asarray(values)[:, START:], grad=grad)


def estimated(inputs, precision, hyperparameters):
    judged = Judged(
        scores=precision.tensor(inputs["reward"]),
        old_logprobs=response(inputs["log_probs_old"], precision),
        ref_logprobs=response(inputs["ref_log_probs"], precision),
        values=response(inputs["values_old"], precision),
        mask=response(inputs["sequence_mask"], precision),
        group_ids=paddle.arange(3),
    )
    return judged, PPO.estimate(judged, hyperparameters=hyperparameters)


def update_fields(judged, estimate):
    return {
        "old_logprobs": judged.old_logprobs,
        "advantages": estimate.advantages,
        "returns": estimate.returns,
        "values": judged.values,
        "response_mask": judged.mask,
    }


@pytest.mark.parametrize("suite", SUITES)
def test_ppo_pipeline(safe_rlhf, precision, close, suite):
    inputs, expected = safe_rlhf["common_inputs"], safe_rlhf["ppo_pipeline"][suite]
    placement, reduction = SUITES[suite]
    hyperparameters = PPOHyperparameters(clip_placement=placement, policy_loss_reduction=reduction)
    judged, estimate = estimated(inputs, precision, hyperparameters)
    close(estimate.rewards, np.array(expected["rewards_with_kl"])[:, START:] * judged.mask.numpy())
    close(estimate.advantages, expected["advantages"])
    close(estimate.returns, expected["returns"] * judged.mask.numpy())

    fields = update_fields(judged, estimate)
    denominator = PPO.count_units(judged.mask.numpy(), hyperparameters=hyperparameters)
    options = {"hyperparameters": hyperparameters, "denominator": denominator}
    logprobs = response(inputs["log_probs_new"], precision, grad=True)
    policy = PPO.policy_loss(logprobs, fields, **options)
    policy.value.backward()
    close(policy.value, expected["actor_loss"])
    close(logprobs.grad, np.array(expected["d_actor_loss_d_log_probs"])[:, START:])
    values = response(inputs["values_new"], precision, grad=True)
    value = PPO.value_loss(values, fields, **options)
    value.value.backward()
    close(value.value, expected["critic_loss"])
    close(values.grad, np.array(expected["d_critic_loss_d_values"])[:, START:])


def test_paddlenlp_pipeline(safe_rlhf, precision, close):
    case = {name: safe_rlhf[f"paddlenlp.{name}"] for name in PADDLENLP}
    hyperparameters = PPOHyperparameters()
    judged, estimate = estimated(safe_rlhf["common_inputs"], precision, hyperparameters)
    mask = response(case["sequence_mask_with_prompt_zeroed"], precision)
    close(judged.mask, mask)
    close(estimate.rewards, np.array(case["rewards_with_kl"])[:, START:] * mask.numpy())
    kl = kl_estimate(judged.old_logprobs, judged.ref_logprobs)
    close(-hyperparameters.kl_coeff * kl, np.array(case["kl_rewards"])[:, START:])
    close(estimate.advantages, np.array(case["reward_advantages_full_len"])[:, START:])
    close(estimate.returns, np.array(case["reward_returns_full_len"])[:, START:])

    options = {"hyperparameters": hyperparameters, "denominator": count_units(mask, "token")}
    logprobs = response(safe_rlhf["common_inputs"]["log_probs_new"], precision, grad=True)
    policy = PPO.policy_loss(logprobs, update_fields(judged, estimate), **options)
    policy.value.backward()
    close(policy.value, case["actor_loss"])
    close(logprobs.grad, np.array(case["d_actor_loss_d_log_probs"])[:, START:])
    values = response(safe_rlhf["common_inputs"]["values_new"], precision, grad=True)
    value = PPO.value_loss(values, update_fields(judged, estimate), **options)
    value.value.backward()
    close(value.value, case["critic_loss"])
    close(values.grad, np.array(case["d_critic_loss_d_values"])[:, START:])


PADDLENLP = (
    "sequence_mask_with_prompt_zeroed",
    "kl_rewards",
    "rewards_with_kl",
    "reward_advantages_full_len",
    "reward_returns_full_len",
    "actor_loss",
    "critic_loss",
    "d_actor_loss_d_log_probs",
    "d_critic_loss_d_values",
)


def test_paddlenlp_whitening(safe_rlhf, precision, close):
    _, estimate = estimated(safe_rlhf["common_inputs"], precision, PPOHyperparameters(normalize_advantage=True))
    close(estimate.advantages, np.array(safe_rlhf["paddlenlp.advantage_normalization"]["output"])[:, START:])


def test_paddlenlp_whitening_over_full_length(safe_rlhf, precision, close):
    advantages = precision.tensor(safe_rlhf["paddlenlp.reward_advantages_full_len"])
    mask = precision.tensor(safe_rlhf["paddlenlp.sequence_mask_with_prompt_zeroed"])
    whitened = masked_whiten(advantages, mask, unbiased=True)
    close(whitened, safe_rlhf["paddlenlp.advantage_normalization"]["output"])


def test_masked_mean_by_sequence(safe_rlhf, precision, close):
    case = safe_rlhf["masked_mean_new"]
    x, mask = precision.tensor(case["x"]), precision.tensor(safe_rlhf["common_inputs"]["sequence_mask"])
    close(TokenMean(mask, count_units(mask, "sequence"), "sequence").of(x), case["output"])
    close(masked_mean(x, paddle.ones_like(x)), case["output_no_mask"])


@pytest.mark.parametrize(("suite", "placement"), [("new", "token"), ("old", "score")])
def test_kl_rewards_tight_clip(safe_rlhf, precision, close, suite, placement):
    inputs, case = safe_rlhf["common_inputs"], safe_rlhf["kl_rewards_tight_clip"]
    mask = precision.tensor(inputs["sequence_mask"])
    rewards = shape_rewards(
        precision.tensor(inputs["reward"]),
        kl_estimate(precision.tensor(inputs["log_probs_old"]), precision.tensor(inputs["ref_log_probs"])),
        mask=mask,
        kl_coeff=case["kl_coeff"],
        clip_range_score=case["clip_range_score"],
        clip_placement=placement,
    )
    close(rewards, case["output"][suite] * mask.numpy())


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (0.99, 0.95), (1.0, 0.0)])
def test_gae_variants(safe_rlhf, precision, close, gamma, gae_lambda):
    inputs = safe_rlhf["common_inputs"]
    expected = safe_rlhf["gae_variants_on_old_rewards"][f"gamma={gamma},lambda={gae_lambda}"]
    mask = response(inputs["sequence_mask"], precision)
    advantages, returns = gae(
        response(safe_rlhf["ppo_pipeline"]["old"]["rewards_with_kl"], precision),
        response(inputs["values_old"], precision),
        mask=mask,
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    close(advantages, expected["advantages"] * mask.numpy())
    close(returns, expected["returns"] * mask.numpy())


def test_row_without_response_gets_no_reward(safe_rlhf, precision, close):
    """PaddleNLP puts the score on position 0, safe-rlhf crashes; here nothing is rewarded."""
    case = safe_rlhf["paddlenlp.kl_rewards_empty_mask_row"]
    kl = kl_estimate(precision.tensor(case["log_probs"]), precision.tensor(case["ref"]))
    options = {"kl_coeff": 0.02, "clip_range_score": 50.0}
    rewards = shape_rewards(precision.tensor([case["reward"]]), kl, mask=paddle.zeros_like(kl), **options)
    close(rewards, np.zeros((1, 7)))
    whole = precision.tensor(case["rewards"])
    close(-0.02 * kl[:, 1:], whole[:, 1:])


def test_grpo_advantages(safe_rlhf, precision, close):
    case = safe_rlhf["paddlenlp.grpo_advantages_per_sequence"]
    ids = paddle.to_tensor([ord(name) for name in case["index"]])
    close(group_normalized(precision.tensor(case["rewards"]), ids, eps=case["epsilon"]), case["output"])


def test_grpo_kl_loss(safe_rlhf, precision, close):
    case, inputs = safe_rlhf["paddlenlp.grpo_kl_loss"], safe_rlhf["common_inputs"]
    mask = precision.tensor(safe_rlhf["paddlenlp.sequence_mask_with_prompt_zeroed"])
    logprobs, ref_logprobs = precision.tensor(inputs["log_probs_new"]), precision.tensor(inputs["ref_log_probs"])
    kl = kl_estimate(logprobs, ref_logprobs, kind="k3", clamp=case["clip_range_score"])
    close(case["kl_loss_coeff"] * masked_mean(kl, mask), case["output"])


def test_kl_metrics(safe_rlhf, precision, close):
    case, inputs = safe_rlhf["paddlenlp.metrics"], safe_rlhf["common_inputs"]
    mask = precision.tensor(safe_rlhf["paddlenlp.sequence_mask_with_prompt_zeroed"])
    old, ref = precision.tensor(inputs["log_probs_old"]), precision.tensor(inputs["ref_log_probs"])
    metrics = kl_metrics(old, ref, mean=TokenMean(mask, count_units(mask, "token")))
    close(metrics["kl/k1"].value, case["kl_divergence_token_mean (later version)"])
    by_row = masked_sum(kl_estimate(old, ref), mask, dim=-1)
    close(by_row.mean(), case["kl_divergence_seq_sum_mean (seed version)"])


def test_ptx_loss(safe_rlhf, precision, close):
    case = safe_rlhf["ptx_loss"]
    labels = np.array(case["labels_unshifted"])[:, 1:]
    rows, columns = np.nonzero(labels != -100)
    logits = np.array(case["logits"])[rows, columns]
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = precision.tensor(logprobs[np.arange(len(rows)), labels[rows, columns]])
    close(cross_entropy(targets, denominator=len(rows)).value, case["mean_ce_over_valid_shifted_tokens"])
