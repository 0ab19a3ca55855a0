"""The on-policy algorithms that a user can name."""

from __future__ import annotations

from alignment.algorithms.on_policy.critic_free.cispo import CISPO
from alignment.algorithms.on_policy.critic_free.dapo import DAPO
from alignment.algorithms.on_policy.critic_free.dr_grpo import DR_GRPO
from alignment.algorithms.on_policy.critic_free.grpo import GRPO
from alignment.algorithms.on_policy.critic_free.gspo import GSPO
from alignment.algorithms.on_policy.critic_free.opo import OPO
from alignment.algorithms.on_policy.critic_free.reinforce_plus_plus import (
    REINFORCE_PLUS_PLUS,
    REINFORCE_PLUS_PLUS_BASELINE,
)
from alignment.algorithms.on_policy.critic_free.remax import REMAX
from alignment.algorithms.on_policy.critic_free.rloo import RLOO
from alignment.algorithms.on_policy.critic_free.sapo import SAPO
from alignment.algorithms.on_policy.ppo import PPO
from alignment.algorithms.on_policy.ppo_lagrangian import PPO_LAGRANGIAN
from alignment.algorithms.on_policy.spec import OnPolicyAlgorithm
from alignment.errors import ArgumentError
from alignment.registry import Registry

ALGORITHMS: Registry[OnPolicyAlgorithm] = Registry("algorithm", ArgumentError)

for _algorithm in (
    PPO,
    PPO_LAGRANGIAN,
    GRPO,
    RLOO,
    REINFORCE_PLUS_PLUS,
    REINFORCE_PLUS_PLUS_BASELINE,
    REMAX,
    OPO,
    DR_GRPO,
    DAPO,
    GSPO,
    CISPO,
    SAPO,
):
    ALGORITHMS.register(_algorithm.name, _algorithm)
