"""GRPO: compare the responses to a prompt with each other, without a critic (Shao et al. 2024, section 4.1).

The defaults are those of PaddleNLP. Extensions of the paper: the KL may also be part of the reward (``kl_coeff``);
advantages may be scaled by the batch or not at all; losses are means over the tokens, or over the responses, of the
whole update. Dr. GRPO (Liu et al. 2025, "Understanding R1-Zero-like training") is scale_rewards=none with
policy_loss_reduction=constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignment.algorithms.advantages import GroupScale, degenerate_groups, group_normalized, has_peers
from alignment.algorithms.kl import kl_estimate
from alignment.algorithms.masked import masked_sum, masked_whiten, zero_outside
from alignment.algorithms.on_policy.hyperparameters import WithoutCritic
from alignment.algorithms.on_policy.spec import Estimate, Judged, OnPolicyAlgorithm
from alignment.algorithms.policy_losses import entropy_bonus, ppo_policy_loss
from alignment.algorithms.rewards import kl_rewards, shape_rewards
from alignment.fields import argument, where
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


@dataclass(frozen=True, kw_only=True)
class GRPOHyperparameters(WithoutCritic):
    """Hyperparameters of GRPO."""

    kl_coeff: float = argument(0.0, minimum=0)
    """Weight of the KL to the reference in the reward, per nat, before groups are compared."""
    kl_loss_coeff: float = argument(0.001, minimum=0)
    """Weight of the KL to the reference (k3) in the loss. If this and kl_coeff are 0, no reference is loaded."""
    pg_loss_coeff: float = argument(1.0, minimum=0)
    """Weight of the clipped policy loss."""
    clip_range_score: float = argument(10.0, above=0, inert_when=where("kl_loss_coeff", 0))
    """Limit of a token's KL in the loss (the key has this meaning in PaddleNLP; rewards are not clipped)."""
    scale_rewards: GroupScale = "group"
    """Divide the distance to the group's mean by the standard deviation of the group or of the batch, or do not divide
    it (none).
    """
    normalize_advantage: bool = False
    """Then normalise the advantages of a rollout to mean 0 and variance 1 over all tokens."""


def estimate(judged: Judged, *, hyperparameters: GRPOHyperparameters, kl_coeff: float | None = None) -> Estimate:
    """Compare each response's reward, including its KL penalty, with those of its group: one advantage per response.

    Rows without tokens (their reward failed) do not belong to a group; the only remaining member of a group has nothing
    to be compared with, and its advantage is 0.
    """
    mask, ref = judged.mask, judged.ref_logprobs
    kl_coeff = hyperparameters.kl_coeff if kl_coeff is None else kl_coeff
    kl = kl_estimate(
        judged.old_logprobs, judged.old_logprobs if ref is None else ref, kind=hyperparameters.kl_estimator
    )
    rewards = shape_rewards(judged.scores, kl, mask=mask, kl_coeff=kl_coeff, clip_range_score=None)
    totals, valid = masked_sum(rewards, mask, dim=-1), mask.sum(axis=-1) > 0
    by_row = group_normalized(totals, judged.group_ids, mask=valid, scale=hyperparameters.scale_rewards)
    compared = mask * has_peers(judged.group_ids, mask=valid).astype(mask.dtype).unsqueeze(-1)
    advantages = zero_outside(by_row.unsqueeze(-1).expand_as(mask), compared)
    if hyperparameters.normalize_advantage:
        advantages = masked_whiten(advantages, mask, unbiased=True)
    penalty = kl_rewards(kl, mask=mask, kl_coeff=kl_coeff) if kl_coeff else None
    return Estimate(advantages, None, rewards, penalty, degenerate_groups(totals, judged.group_ids, mask=valid))


def policy_loss(
    logprobs: Tensor,
    fields: Mapping[str, Tensor],
    *,
    hyperparameters: GRPOHyperparameters,
    denominator: float | Tensor,
    entropy: Tensor | None = None,
) -> Loss:
    """Return the clipped policy loss plus the KL (k3) to the reference, minus the entropy bonus of ``entropy``."""
    mean = hyperparameters.token_mean(fields["response_mask"], denominator)
    clipped = ppo_policy_loss(
        logprobs,
        fields["old_logprobs"],
        advantages=fields["advantages"],
        clip=hyperparameters.ratio_clip,
        mean=mean,
        weights=fields.get("importance_weights"),
    )
    value, metrics = hyperparameters.pg_loss_coeff * clipped.value, dict(clipped.metrics)
    if hyperparameters.kl_loss_coeff:
        kl = kl_estimate(logprobs, fields["ref_logprobs"], kind="k3", clamp=hyperparameters.clip_range_score)
        value = value + hyperparameters.kl_loss_coeff * mean.of(kl)
        metrics["policy/kl_loss"] = Metric(mean.average(kl).detach())
    if entropy is not None:
        bonus = entropy_bonus(entropy, coeff=hyperparameters.entropy_coeff, mean=mean)
        value, metrics = value + bonus.value, {**metrics, **bonus.metrics}
    return Loss(value, metrics)


def needs_reference(hyperparameters: GRPOHyperparameters) -> bool:
    """Tell whether the KL to the reference has any weight; without, the reference would only cost memory."""
    return hyperparameters.kl_coeff > 0 or hyperparameters.kl_loss_coeff > 0


GRPO = OnPolicyAlgorithm(
    name="grpo",
    title="GRPO",
    hyperparameters=GRPOHyperparameters,
    needs_critic=False,
    needs_reference=needs_reference,
    min_group_size=2,
    estimate=estimate,
    policy_loss=policy_loss,
)
