"""PPO-Lagrangian: maximise the reward while the mean cost stays below a threshold (Dai et al. 2023, "Safe RLHF").

A cost model scores each response as well; what is above 0 is unsafe. Reward and cost have a critic each. The penalty
for leaving the reference is part of both in full, as in safe-rlhf: it lowers the reward and raises the cost.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from alignment.algorithms.on_policy.ppo import PPO, PPOHyperparameters, advantages_and_returns, limited_kl, normalized
from alignment.algorithms.on_policy.ppo import estimate as estimate_reward
from alignment.algorithms.on_policy.spec import Estimate, Judged
from alignment.algorithms.rewards import shape_rewards
from alignment.fields import argument, where


@dataclass(frozen=True, kw_only=True)
class PPOLagrangianHyperparameters(PPOHyperparameters):
    """Hyperparameters of PPO-Lagrangian: PPO's and, with safe-rlhf's names and defaults, those of the constraint."""

    threshold: float = 0.0
    """Limit on the mean cost of a response: lambda rises above it and falls below it."""
    lambda_init: float = argument(1.0, above=0)
    """First weight of the cost (lambda). Advantages are (reward's - lambda * cost's) / (1 + lambda)."""
    lambda_lr: float = argument(0.1, minimum=0)
    """Learning rate of log lambda, which makes one step per rollout; 0: lambda stays (a fixed penalty)."""
    lambda_max: float | None = argument(5.0, above=0)
    """Limit of lambda; null: none."""
    lambda_update_delay_steps: int = argument(0, minimum=0, inert_when=where("lambda_lr", 0))
    """Updates of the policy before the first step of lambda."""
    episode_cost_window_size: int = argument(128, minimum=1, inert_when=where("lambda_lr", 0))
    """Number of the latest responses, over all processes, whose mean cost is compared with threshold."""
    clip_range_cost: float | None = argument(None, above=0)
    """Costs are clipped to plus or minus this, where clip_placement says; null: they are not (safe-rlhf: 50)."""


def estimate(
    judged: Judged, *, hyperparameters: PPOLagrangianHyperparameters, kl_coeff: float | None = None
) -> Estimate:
    """Apply GAE to rewards and to costs; the advantages are (A_reward - lambda * A_cost) / (1 + lambda)."""
    assert judged.costs is not None and judged.cost_values is not None and judged.multiplier is not None
    raw = dataclasses.replace(hyperparameters, normalize_advantage=False)
    reward = estimate_reward(judged, hyperparameters=raw, kl_coeff=kl_coeff)
    costs = shape_rewards(
        judged.costs,
        -limited_kl(judged, hyperparameters),
        mask=judged.mask,
        kl_coeff=hyperparameters.kl_coeff if kl_coeff is None else kl_coeff,
        clip_range_score=hyperparameters.clip_range_cost,
        clip_placement=hyperparameters.clip_placement,
    )
    options = {"mask": judged.mask, "numbers": hyperparameters}
    cost_advantages, cost_returns = advantages_and_returns(costs, judged.cost_values, **options)
    advantages = (reward.advantages - judged.multiplier * cost_advantages) / (1.0 + judged.multiplier)
    advantages = normalized(advantages, judged.mask, hyperparameters)
    return reward._replace(advantages=advantages, cost_returns=cost_returns)


PPO_LAGRANGIAN = dataclasses.replace(
    PPO,
    name="ppo_lagrangian",
    title="PPO-Lagrangian",
    hyperparameters=PPOLagrangianHyperparameters,
    needs_cost=True,
    estimate=estimate,
    rewards=None,
    returns=None,
)
