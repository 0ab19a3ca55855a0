"""What a run needs to know about an on-policy algorithm, without comparing names.

To add one, write a file like ``ppo.py``, a line in ``registered.py`` and a JSON file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from alignment.algorithms.masked import count_units
from alignment.algorithms.on_policy.hyperparameters import OnPolicyHyperparameters
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


class Judged(NamedTuple):
    """Everything measured on N sampled responses of at most R tokens; masked positions may hold any values."""

    scores: Tensor
    """[N], one reward per response."""
    old_logprobs: Tensor
    """[N, R], of the policy before the update."""
    mask: Tensor
    """[N, R], 1 on real response tokens of valid rows."""
    group_ids: Tensor
    """[N] int64, equal for samples of one prompt."""
    ref_logprobs: Tensor | None = None
    """[N, R], of the frozen reference (if ``needs_reference``)."""
    values: Tensor | None = None
    """[N, R], of the critic before the update (if ``needs_critic``)."""
    rewards: Tensor | None = None
    """[N, R], those of the algorithm's ``rewards``, if they have been asked for already."""
    costs: Tensor | None = None
    """[N], one cost per response (if ``needs_cost``)."""
    cost_values: Tensor | None = None
    """[N, R], of the cost critic before the update (if ``needs_cost``)."""
    multiplier: float | None = None
    """Weight of the cost (if ``needs_cost``)."""
    baseline_scores: Tensor | None = None
    """[N], the reward of the greedy response to the row's prompt (if ``needs_greedy``)."""


class Estimate(NamedTuple):
    """The result of an algorithm for ``Judged``; tensors are [N, R] and zero under the mask."""

    advantages: Tensor
    returns: Tensor | None
    """None without a critic."""
    rewards: Tensor
    """Score and KL penalty per token."""
    kl_rewards: Tensor | None = None
    """The KL penalty alone, before clipping (None: there is none)."""
    metrics: Mapping[str, Metric] = MappingProxyType({})
    """The algorithm's own metrics of the rollout."""
    cost_returns: Tensor | None = None
    """None without a cost critic."""


class CriticRole(NamedTuple):
    """A trained critic and what it learns from."""

    name: str
    """Its name in messages, metrics and plans."""
    values: str
    """The field of a rollout with its values before the update."""
    returns: str
    """The field of an experience with the returns that it predicts."""


CRITIC = CriticRole("critic", "values", "returns")
COST_CRITIC = CriticRole("cost_critic", "cost_values", "cost_returns")


class EstimateFunction(Protocol):
    """Turns measurements of a whole rollout into advantages."""

    def __call__(self, judged: Judged, *, hyperparameters: Any, kl_coeff: float | None = None) -> Estimate:
        """``judged`` has the rows of all ranks; ``kl_coeff`` overrides the hyperparameter (adaptive control)."""
        ...


class PolicyLossFunction(Protocol):
    """The policy's loss on a micro-batch of n rows."""

    def __call__(
        self,
        logprobs: Tensor,
        fields: Mapping[str, Tensor],
        *,
        hyperparameters: Any,
        denominator: float | Tensor,
        entropy: Tensor | None = None,
    ) -> Loss:
        """``logprobs`` and ``entropy`` [n, R] are the current policy's, with gradients.

        ``fields``, all [n, R]: ``old_logprobs``, ``advantages``, ``response_mask``; if ``needs_reference``,
        ``ref_logprobs``; if the run corrects for the engine's sampling, ``importance_weights``, factors of each token's
        loss.
        """
        ...


class ValueLossFunction(Protocol):
    """The critic's loss on a micro-batch of n rows."""

    def __call__(
        self, values: Tensor, fields: Mapping[str, Tensor], *, hyperparameters: Any, denominator: float | Tensor
    ) -> Loss:
        """``values`` [n, R] with gradients; ``fields``: ``values`` (old ones), ``returns``, ``response_mask``."""
        ...


class RewardsFunction(Protocol):
    """The rewards of an ``Estimate``, which do not depend on values."""

    def __call__(self, judged: Judged, *, hyperparameters: Any, kl_coeff: float) -> Tensor:
        """Return them [N, R]; ``judged`` may lack values."""
        ...


class ReturnsFunction(Protocol):
    """What the critic learns in each row, from the rewards and values of that row alone."""

    def __call__(self, rewards: Tensor, values: Tensor, *, mask: Tensor, hyperparameters: Any) -> Tensor:
        """All [n, R]; ``rewards`` and the returns are those of ``Estimate``, ``mask`` that of ``Judged``."""
        ...


class CountFunction(Protocol):
    """Counts what both losses average over."""

    def __call__(self, mask: np.ndarray, *, hyperparameters: Any) -> float:
        """``mask`` [N, R] (numpy); the counts of all rows and ranks of one update add up to the ``denominator``."""
        ...


def count_by_reduction(mask: np.ndarray, *, hyperparameters: OnPolicyHyperparameters) -> float:
    """Count the tokens or rows that ``policy_loss_reduction`` averages over."""
    return float(count_units(mask, hyperparameters.policy_loss_reduction))


def always(hyperparameters: Any) -> bool:
    """Return True, as a ``needs_reference`` for any hyperparameters."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPolicyAlgorithm:
    """An algorithm that trains on its own samples."""

    name: str
    """Value of ``rl_algorithm``."""
    title: str
    """Its name in logs and tables."""
    hyperparameters: type[OnPolicyHyperparameters]
    """A frozen dataclass whose fields are the arguments; an instance is passed to each function below."""
    needs_critic: bool
    """Whether a critic is loaded, trained, saved and planned for."""
    needs_reference: Callable[[Any], bool]
    """Whether these hyperparameters need the frozen reference, which costs a model's memory and a forward pass."""
    min_group_size: int
    """Number of samples per prompt that the estimate needs."""
    needs_cost: bool = False
    """Whether a cost model scores each response too, a cost critic is trained with ``value_loss``, and a multiplier
    weighs the cost (``algorithms.lagrange``)."""
    estimate: EstimateFunction
    policy_loss: PolicyLossFunction
    value_loss: ValueLossFunction | None = None
    rewards: RewardsFunction | None = None
    returns: ReturnsFunction | None = None
    """Both None: what the critic learns depends on more than a row's rewards and values."""
    needs_greedy: bool = False
    """Whether every prompt also gets a greedy response, whose reward is a baseline."""
    count_units: CountFunction = count_by_reduction

    def __post_init__(self) -> None:
        assert self.needs_critic == (self.value_loss is not None), f"{self.name}: a critic needs a value loss"
        assert (self.rewards is None) == (self.returns is None), f"{self.name}: returns are made of rewards"
        assert self.needs_critic or not self.needs_cost, f"{self.name}: a cost critic needs a value loss"

    @property
    def critics(self) -> tuple[CriticRole, ...]:
        """The critics that are trained."""
        return (CRITIC,) * self.needs_critic + (COST_CRITIC,) * self.needs_cost
