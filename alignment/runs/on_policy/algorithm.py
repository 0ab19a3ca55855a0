"""The algorithm that a run has, with its numbers, and the models that it needs; read without Paddle."""

from __future__ import annotations

from typing import NamedTuple

from alignment.algorithms.on_policy.hyperparameters import OnPolicyHyperparameters
from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.algorithms.on_policy.spec import OnPolicyAlgorithm
from alignment.arguments.parsed import Parsed


class ChosenAlgorithm(NamedTuple):
    """What ``rl_algorithm`` names, and what the user chose about it."""

    spec: OnPolicyAlgorithm
    hyperparameters: OnPolicyHyperparameters

    @classmethod
    def of(cls, parsed: Parsed) -> ChosenAlgorithm:
        """Return the algorithm of the arguments of an on-policy run."""
        return cls(ALGORITHMS[parsed.on_policy.rl_algorithm], parsed.algorithm)

    @property
    def needs_critic(self) -> bool:
        """Whether a critic is loaded, trained and saved."""
        return self.spec.needs_critic

    @property
    def needs_reference(self) -> bool:
        """Whether the frozen reference is loaded."""
        return self.spec.needs_reference(self.hyperparameters)


def critic_name(parsed: Parsed) -> str | None:
    """Return the folder or hub name that the critic starts from: the reward model's where it has none of its own; None
    without a critic.
    """
    if "critic" not in parsed.groups:
        return None
    return parsed.critic.reward_critic_model_name_or_path or parsed.reward_source.reward_model_name_or_path
