"""The algorithm of a run, its hyperparameters, and the models that it needs; works without Paddle."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from alignment.algorithms.adaptive_entropy import AdaptiveEntropy
from alignment.algorithms.on_policy.hyperparameters import OnPolicyHyperparameters
from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.algorithms.on_policy.spec import OnPolicyAlgorithm
from alignment.arguments.keys.training import TrainingArguments
from alignment.arguments.parsed import Parsed


class ChosenAlgorithm(NamedTuple):
    """The algorithm named by ``rl_algorithm``, with the user's hyperparameters."""

    spec: OnPolicyAlgorithm
    hyperparameters: OnPolicyHyperparameters

    @classmethod
    def of(cls, parsed: Parsed) -> ChosenAlgorithm:
        """Return the algorithm of an on-policy run's arguments, with ``loss_length`` resolved."""
        length = parsed.algorithm.loss_length or parsed.generation.max_dec_len or parsed.data.max_length - 1
        numbers = dataclasses.replace(parsed.algorithm, loss_length=length)
        return cls(ALGORITHMS[parsed.on_policy.rl_algorithm], numbers)

    @property
    def needs_critic(self) -> bool:
        """Whether a critic is loaded, trained and saved."""
        return self.spec.needs_critic

    @property
    def needs_cost(self) -> bool:
        """Whether a cost model is loaded, and a critic of the cost trained and saved."""
        return self.spec.needs_cost

    @property
    def needs_reference(self) -> bool:
        """Whether the frozen reference is loaded."""
        return self.spec.needs_reference(self.hyperparameters)


def build_entropy(hyperparameters: OnPolicyHyperparameters) -> AdaptiveEntropy | None:
    """Return what adapts the coefficient of the entropy bonus; None if it stays."""
    if not hyperparameters.use_adaptive_entropy:
        return None
    return AdaptiveEntropy(
        coefficient=hyperparameters.entropy_coeff,
        target=hyperparameters.entropy_target,
        step=hyperparameters.entropy_coeff_delta,
        minimum=hyperparameters.entropy_coeff_min,
        maximum=hyperparameters.entropy_coeff_max,
    )


def critic_name(parsed: Parsed) -> str | None:
    """Return the folder or name that the critic starts from, or whose shape it has; None without a critic."""
    if "critic" not in parsed.groups:
        return None
    start = parsed.reward_source.first_model
    if parsed.critic.critic_init != "reward_model":
        start = parsed.on_policy.actor_model_name_or_path
    return parsed.critic.reward_critic_model_name_or_path or start


def cost_names(parsed: Parsed) -> tuple[str | None, str | None]:
    """Return the folders or names of the cost model and of what its critic starts from (default: the cost model)."""
    if "cost" not in parsed.groups:
        return None, None
    cost = parsed.cost.cost_model_name_or_path
    return cost, parsed.cost.cost_critic_model_name_or_path or cost


def critic_training(parsed: Parsed) -> TrainingArguments:
    """Return the training arguments of the critic: those of the policy, overridden by the given ``critic_`` keys."""
    given = {
        field.name.removeprefix("critic_"): getattr(parsed.critic, field.name)
        for field in dataclasses.fields(parsed.critic)
        if field.name.startswith("critic_") and field.name != "critic_init"
    }
    return dataclasses.replace(parsed.training, **{name: value for name, value in given.items() if value is not None})
