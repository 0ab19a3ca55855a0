"""The algorithms a user can name: one line each."""

from __future__ import annotations

from alignment.algorithms.ppo import PPO
from alignment.algorithms.spec import OnPolicyAlgorithm
from alignment.errors import ArgumentError
from alignment.registry import Registry

ALGORITHMS: Registry[OnPolicyAlgorithm] = Registry("algorithm", ArgumentError)

ALGORITHMS.register(PPO.name, PPO)
