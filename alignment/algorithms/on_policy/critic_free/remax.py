"""ReMax: the reward of the greedy response to the same prompt is the baseline (Li et al. 2023, "ReMax").

Every rollout also samples one greedy response a prompt, which is scored and not learned from. As in verl, a token's
return includes the KL penalties from it on, and the baseline is the score of the greedy response alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from alignment.algorithms.advantages import reinforce_returns
from alignment.algorithms.masked import masked_whiten, zero_outside
from alignment.algorithms.on_policy.critic_free.grpo import GRPO
from alignment.algorithms.on_policy.critic_free.responses import CriticFreeHyperparameters, kl_to_reference
from alignment.algorithms.on_policy.spec import Estimate, Judged
from alignment.algorithms.rewards import kl_rewards, shape_rewards
from alignment.fields import argument
from alignment.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class ReMaxHyperparameters(CriticFreeHyperparameters):
    """Hyperparameters of ReMax."""

    kl_coeff: float = argument(0.05, minimum=0)
    """Weight of the KL to the reference in each token's reward, per nat; the initial value if kl_target is given."""


def estimate(judged: Judged, *, hyperparameters: ReMaxHyperparameters, kl_coeff: float | None = None) -> Estimate:
    """Return the return of each token minus the score of the greedy response as its advantage."""
    assert judged.baseline_scores is not None
    mask = judged.mask
    kl_coeff = hyperparameters.kl_coeff if kl_coeff is None else kl_coeff
    kl = kl_to_reference(judged, hyperparameters)
    rewards = shape_rewards(judged.scores, kl, mask=mask, kl_coeff=kl_coeff, clip_range_score=None)
    returns = reinforce_returns(rewards, mask, gamma=1.0)
    advantages = zero_outside(returns - judged.baseline_scores.unsqueeze(-1), mask)
    if hyperparameters.normalize_advantage:
        advantages = masked_whiten(advantages, mask, unbiased=True)
    penalty = kl_rewards(kl, mask=mask, kl_coeff=kl_coeff) if kl_coeff else None
    valid = mask.sum(axis=-1) > 0
    greedy = zero_outside(judged.baseline_scores, valid.astype(mask.dtype)).sum() / valid.sum().clip(min=1)
    return Estimate(advantages, None, rewards, penalty, {"reward/greedy": Metric(float(greedy))})


REMAX = replace(
    GRPO,
    name="remax",
    title="ReMax",
    hyperparameters=ReMaxHyperparameters,
    min_group_size=1,
    needs_greedy=True,
    estimate=estimate,
)
