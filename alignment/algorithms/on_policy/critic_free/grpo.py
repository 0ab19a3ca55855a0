"""GRPO: compare the responses to a prompt with each other, without a critic (Shao et al. 2024, section 4.1).

The defaults are those of PaddleNLP. Extensions of the paper: the KL may also be part of the reward (``kl_coeff``);
advantages may be scaled by the batch or not at all; losses are means over the tokens, or over the responses, of the
whole update.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignment.algorithms.advantages import GroupScale, group_normalized
from alignment.algorithms.on_policy.critic_free.responses import (
    CriticFreeHyperparameters,
    ResponseEstimate,
    needs_reference,
)
from alignment.algorithms.on_policy.policy_loss import PolicyLoss
from alignment.algorithms.on_policy.spec import Judged, OnPolicyAlgorithm
from alignment.fields import argument, where

if TYPE_CHECKING:
    from paddle import Tensor


@dataclass(frozen=True, kw_only=True)
class GRPOHyperparameters(CriticFreeHyperparameters):
    """Hyperparameters of GRPO and of the algorithms that change its loss."""

    kl_loss_coeff: float = argument(0.001, minimum=0)
    scale_rewards: GroupScale = "group"
    """Divide the distance to the group's mean by the standard deviation of the group or of the batch, or do not divide
    it (none).
    """
    group_epsilon: float = argument(1e-6, minimum=0, inert_when=where("scale_rewards", "none"))
    """Added to that standard deviation (TRL: 1e-4, OpenRLHF: 1e-9)."""


def compare(totals: Tensor, judged: Judged, valid: Tensor, hyperparameters: GRPOHyperparameters) -> Tensor:
    """Return the distance [N] of each response to the mean of its group, in standard deviations."""
    how = {"scale": hyperparameters.scale_rewards, "eps": hyperparameters.group_epsilon}
    return group_normalized(totals, judged.group_ids, mask=valid, **how)


estimate = ResponseEstimate(compare)
policy_loss = PolicyLoss()

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
