"""What the on-policy loop needs to know of an algorithm; it never asks for its name.

To add one: a file like ``ppo.py``, one line in ``registered.py`` and a JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from paddle import Tensor

from alignment.algorithms.masked import Reduce
from alignment.records import Loss


class Judged(NamedTuple):
    """Everything measured on N sampled responses of at most R tokens; masked positions may hold anything."""

    scores: Tensor
    """[N], one reward a response."""
    old_logprobs: Tensor
    """[N, R], of the policy before the update."""
    mask: Tensor
    """[N, R], 1 on real response tokens of valid rows."""
    group_ids: Tensor
    """[N] int64, equal for samples of one prompt."""
    ref_logprobs: Tensor | None = None
    """[N, R], of the frozen reference (when ``needs_reference``)."""
    values: Tensor | None = None
    """[N, R], of the critic before the update (when ``needs_critic``)."""


class Estimate(NamedTuple):
    """What an algorithm makes of ``Judged``; all [N, R] and zero under the mask."""

    advantages: Tensor
    returns: Tensor | None
    """None without a critic."""
    rewards: Tensor
    """Score and KL penalty by token."""
    kl_rewards: Tensor | None = None
    """The KL penalty's part of them, before any clip (None: the reward has no such part)."""


class EstimateFunction(Protocol):
    """Turns measurements into advantages."""

    def __call__(
        self, judged: Judged, *, hyperparameters: Any, kl_coeff: float | None = None, reduce: Reduce = ...
    ) -> Estimate:
        """``kl_coeff`` overrides the hyperparameter (adaptive control); ``reduce`` adds over data-parallel ranks."""
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

        ``fields``, all [n, R]: ``old_logprobs``, ``advantages``, ``response_mask``; when ``needs_reference``,
        ``ref_logprobs``; when the run corrects for the engine's sampling, ``importance_weights``, by which the loss of
        each token is to be multiplied.
        """
        ...


class ValueLossFunction(Protocol):
    """The critic's loss on a micro-batch of n rows."""

    def __call__(
        self, values: Tensor, fields: Mapping[str, Tensor], *, hyperparameters: Any, denominator: float | Tensor
    ) -> Loss:
        """``values`` [n, R] with gradients; ``fields``: ``values`` (old ones), ``returns``, ``response_mask``."""
        ...


class CountFunction(Protocol):
    """Counts what both losses average over."""

    def __call__(self, mask: np.ndarray, *, hyperparameters: Any) -> float:
        """``mask`` [N, R] (numpy); the counts of all rows and ranks of one update add up to the ``denominator``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPolicyAlgorithm:
    """An algorithm that learns from its own samples."""

    name: str
    hyperparameters: type
    """A frozen dataclass; an instance is handed to each function below."""
    needs_critic: bool
    needs_reference: bool
    min_group_size: int
    """How many samples of each prompt the estimate needs."""
    estimate: EstimateFunction
    policy_loss: PolicyLossFunction
    count_units: CountFunction
    value_loss: ValueLossFunction | None = None

    def __post_init__(self) -> None:
        assert self.needs_critic == (self.value_loss is not None), f"{self.name}: a critic needs a value loss"
