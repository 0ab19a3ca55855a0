"""GRPO whose advantages are not divided and whose sums over responses are divided by one constant length: Dr. GRPO
(Liu et al. 2025, "Understanding R1-Zero-like training").
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from alignment.algorithms.advantages import GroupScale
from alignment.algorithms.masked import Reduction
from alignment.algorithms.on_policy.critic_free.grpo import GRPO, GRPOHyperparameters
from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class DrGRPOHyperparameters(GRPOHyperparameters):
    """Hyperparameters of Dr. GRPO."""

    kl_loss_coeff: float = argument(0.0, minimum=0)
    scale_rewards: GroupScale = "none"
    policy_loss_reduction: Reduction = "constant"


DR_GRPO = replace(GRPO, name="dr_grpo", title="Dr. GRPO", hyperparameters=DrGRPOHyperparameters)
