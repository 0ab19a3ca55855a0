"""What algorithms without a critic share: their hyperparameters, and one advantage per response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from alignment.algorithms.advantages import degenerate_groups, has_peers
from alignment.algorithms.kl import KLLossKind, kl_estimate
from alignment.algorithms.masked import masked_sum, masked_whiten, zero_outside
from alignment.algorithms.on_policy.hyperparameters import WithoutCritic
from alignment.algorithms.on_policy.spec import Estimate, Judged
from alignment.algorithms.rewards import kl_rewards, shape_rewards
from alignment.fields import argument, where

if TYPE_CHECKING:
    from paddle import Tensor


@dataclass(frozen=True, kw_only=True)
class CriticFreeHyperparameters(WithoutCritic):
    """Hyperparameters of all algorithms without a critic; an algorithm may change defaults."""

    kl_coeff: float = argument(0.0, minimum=0)
    """Weight of the KL to the reference in the reward, per nat, before responses are compared."""
    kl_loss_coeff: float = argument(0.0, minimum=0)
    """Weight of the KL to the reference in the loss. If this and kl_coeff are 0, no reference is loaded."""
    kl_loss_estimator: KLLossKind = argument(
        "k3",
        inert_when=where("kl_loss_coeff", 0),
        advice={"use_kl_loss": "give kl_loss_coeff, the weight of the KL in the loss (0: none)"},
    )
    """Estimate of the KL in the loss; k1+, k3+ and abs+ have the value of k1, k3 or abs and the gradient of k2, which
    is that of the KL. The expected gradient of k1 alone is 0.
    """
    pg_loss_coeff: float = argument(1.0, minimum=0)
    """Weight of the policy loss."""
    clip_range_score: float | None = argument(10.0, above=0, inert_when=where("kl_loss_coeff", 0))
    """Limit of a token's KL in the loss, as in PaddleNLP (rewards are not clipped); null: no limit."""
    normalize_advantage: bool = False
    """Then normalise the advantages of a rollout to mean 0 and variance 1 over all tokens."""

    @property
    def kl_loss_weight(self) -> float:
        """See ``OnPolicyHyperparameters``."""
        return self.kl_loss_coeff

    @property
    def kl_loss_limit(self) -> float | None:
        """See ``OnPolicyHyperparameters``."""
        return self.clip_range_score


class Compare(Protocol):
    """Turns the whole rewards of responses into their advantages."""

    def __call__(self, totals: Tensor, judged: Judged, valid: Tensor, hyperparameters: Any) -> Tensor:
        """``totals`` [N] are rewards including the KL penalty, ``valid`` [N] is False for rows that have none."""
        ...


class ResponseEstimate:
    """Gives every token of a response the advantage that ``compare`` finds for the response."""

    def __init__(self, compare: Compare) -> None:
        self._compare = compare

    def __call__(self, judged: Judged, *, hyperparameters: Any, kl_coeff: float | None = None) -> Estimate:
        """Return the estimate; the reward of a response includes its KL penalty.

        Rows without tokens (their reward failed) do not belong to a group; the only remaining member of a group has
        nothing to be compared with, and its advantage is 0.
        """
        mask = judged.mask
        kl_coeff = hyperparameters.kl_coeff if kl_coeff is None else kl_coeff
        kl = kl_to_reference(judged, hyperparameters)
        rewards = shape_rewards(judged.scores, kl, mask=mask, kl_coeff=kl_coeff, clip_range_score=None)
        totals, valid = masked_sum(rewards, mask, dim=-1), mask.sum(axis=-1) > 0
        by_row = self._compare(totals, judged, valid, hyperparameters)
        advantages = zero_outside(by_row.unsqueeze(-1).expand_as(mask), with_peers(judged))
        if hyperparameters.normalize_advantage:
            advantages = masked_whiten(advantages, mask, unbiased=True)
        penalty = kl_rewards(kl, mask=mask, kl_coeff=kl_coeff) if kl_coeff else None
        return Estimate(advantages, None, rewards, penalty, degenerate_groups(totals, judged.group_ids, mask=valid))


def kl_to_reference(judged: Judged, hyperparameters: Any) -> Tensor:
    """Return each token's KL [N, R] by ``kl_estimator``; zeros without a reference."""
    ref = judged.old_logprobs if judged.ref_logprobs is None else judged.ref_logprobs
    return kl_estimate(judged.old_logprobs, ref, kind=hyperparameters.kl_estimator)


def with_peers(judged: Judged) -> Tensor:
    """Return the mask [N, R] without rows that are the only valid ones of their group."""
    valid = judged.mask.sum(axis=-1) > 0
    return judged.mask * has_peers(judged.group_ids, mask=valid).astype(judged.mask.dtype).unsqueeze(-1)


def needs_reference(hyperparameters: Any) -> bool:
    """Tell whether the KL to the reference has any weight; without, the reference would only cost memory."""
    return hyperparameters.kl_coeff > 0 or hyperparameters.kl_loss_coeff > 0
