"""PPO with a critic and the KL to the reference in the reward (Ouyang et al. 2022; Schulman et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from paddle import Tensor

from alignment.algorithms.advantages import gae
from alignment.algorithms.kl import KLKind, kl_estimate
from alignment.algorithms.masked import Reduce, Reduction, TokenMean, count_units, identity, masked_whiten
from alignment.algorithms.policy_losses import RatioClip, entropy_bonus, ppo_policy_loss
from alignment.algorithms.rewards import ClipPlacement, kl_rewards, shape_rewards
from alignment.algorithms.spec import Estimate, Judged, OnPolicyAlgorithm
from alignment.algorithms.value_losses import clipped_value_loss
from alignment.records import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOHyperparameters:
    """What a user may choose about PPO; the defaults are those of the PaddleNLP suite."""

    kl_coeff: float = 0.02
    """Weight of the KL penalty in the reward."""
    kl_kind: KLKind = "k1"
    """Estimator of that KL."""
    clip_range_score: float | None = 50.0
    """Rewards are clipped to +- this (None: off)."""
    clip_placement: ClipPlacement = "score"
    """Whether the score or every token's sum of score and penalty is clipped."""
    gamma: float = 1.0
    """Discount of later rewards."""
    gae_lambda: float = 0.95
    """Bias (0) against variance (1) of the advantages."""
    normalize_advantage: bool = False
    """Whiten the advantages over all tokens of the rollout (unbiased variance, as PaddleNLP)."""
    clip_range_ratio_low: float = 0.2
    """The ratio is clipped below at 1 minus this."""
    clip_range_ratio_high: float = 0.2
    """The ratio is clipped above at 1 plus this."""
    dual_clip: float | None = None
    """Bound on the loss of negative advantages, above 1 (None: off)."""
    clip_range_value: float | None = 5.0
    """The value is clipped to +- this around the old value (None: off)."""
    loss_reduction: Reduction = "token"
    """Whether tokens or responses weigh the same in both losses."""
    entropy_coeff: float = 0.0
    """Weight of the entropy bonus."""


def estimate(
    judged: Judged, *, hyperparameters: PPOHyperparameters, kl_coeff: float | None = None, reduce: Reduce = identity
) -> Estimate:
    """Shape rewards, then GAE; returns are taken before the advantages are whitened."""
    assert judged.ref_logprobs is not None and judged.values is not None
    kl = kl_estimate(judged.old_logprobs, judged.ref_logprobs, kind=hyperparameters.kl_kind)
    kl_coeff = hyperparameters.kl_coeff if kl_coeff is None else kl_coeff
    rewards = shape_rewards(
        judged.scores,
        kl,
        mask=judged.mask,
        kl_coeff=kl_coeff,
        clip_range_score=hyperparameters.clip_range_score,
        clip_placement=hyperparameters.clip_placement,
    )
    advantages, returns = gae(
        rewards,
        judged.values,
        mask=judged.mask,
        gamma=hyperparameters.gamma,
        gae_lambda=hyperparameters.gae_lambda,
    )
    if hyperparameters.normalize_advantage:
        advantages = masked_whiten(advantages, judged.mask, unbiased=True, reduce=reduce)
    return Estimate(advantages, returns, rewards, kl_rewards(kl, mask=judged.mask, kl_coeff=kl_coeff))


def policy_loss(
    logprobs: Tensor,
    fields: Mapping[str, Tensor],
    *,
    hyperparameters: PPOHyperparameters,
    denominator: float | Tensor,
    entropy: Tensor | None = None,
) -> Loss:
    """Clipped policy loss, minus the entropy bonus where ``entropy`` [n, R] is given.

    Where ``fields`` has ``importance_weights`` they multiply the clipped loss, not the bonus.
    """
    mean = TokenMean(fields["response_mask"], denominator, hyperparameters.loss_reduction)
    loss = ppo_policy_loss(
        logprobs,
        fields["old_logprobs"],
        advantages=fields["advantages"],
        clip=RatioClip(
            hyperparameters.clip_range_ratio_low, hyperparameters.clip_range_ratio_high, hyperparameters.dual_clip
        ),
        mean=mean,
        weights=fields.get("importance_weights"),
    )
    if entropy is None:
        assert hyperparameters.entropy_coeff == 0, "an entropy bonus needs the entropy"
        return loss
    bonus = entropy_bonus(entropy, coeff=hyperparameters.entropy_coeff, mean=mean)
    return Loss(loss.value + bonus.value, {**loss.metrics, **bonus.metrics})


def value_loss(
    values: Tensor, fields: Mapping[str, Tensor], *, hyperparameters: PPOHyperparameters, denominator: float | Tensor
) -> Loss:
    """Clipped value loss."""
    return clipped_value_loss(
        values,
        fields["values"],
        returns=fields["returns"],
        clip_range=hyperparameters.clip_range_value,
        mean=TokenMean(fields["response_mask"], denominator, hyperparameters.loss_reduction),
    )


def num_units(mask: np.ndarray, *, hyperparameters: PPOHyperparameters) -> float:
    """Count the tokens or rows that the losses average over."""
    return float(count_units(mask, hyperparameters.loss_reduction))


PPO = OnPolicyAlgorithm(
    name="ppo",
    hyperparameters=PPOHyperparameters,
    needs_critic=True,
    needs_reference=True,
    min_group_size=1,
    estimate=estimate,
    policy_loss=policy_loss,
    value_loss=value_loss,
    count_units=num_units,
)
