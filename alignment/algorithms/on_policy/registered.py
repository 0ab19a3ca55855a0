"""The on-policy algorithms that a user can name."""

from __future__ import annotations

from alignment.algorithms.on_policy.grpo import GRPO
from alignment.algorithms.on_policy.ppo import PPO
from alignment.algorithms.on_policy.spec import OnPolicyAlgorithm
from alignment.errors import ArgumentError
from alignment.registry import Registry

ALGORITHMS: Registry[OnPolicyAlgorithm] = Registry("algorithm", ArgumentError)

for _algorithm in (PPO, GRPO):
    ALGORITHMS.register(_algorithm.name, _algorithm)
