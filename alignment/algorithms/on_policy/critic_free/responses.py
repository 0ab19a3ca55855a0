"""What algorithms without a critic share: their hyperparameters, one advantage per response, and the policy loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from alignment.algorithms.advantages import degenerate_groups, has_peers
from alignment.algorithms.kl import KLLossKind, kl_estimate, kl_loss
from alignment.algorithms.masked import TokenMean, masked_sum, masked_whiten, zero_outside
from alignment.algorithms.on_policy.hyperparameters import WithoutCritic
from alignment.algorithms.on_policy.spec import Estimate, Judged
from alignment.algorithms.policy_losses import RatioLevel, entropy_bonus, ppo_policy_loss
from alignment.algorithms.rewards import kl_rewards, shape_rewards
from alignment.fields import argument, where
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


@dataclass(frozen=True, kw_only=True)
class CriticFreeHyperparameters(WithoutCritic):
    """Hyperparameters of all algorithms without a critic; an algorithm may change defaults."""

    kl_coeff: float = argument(0.0, minimum=0)
    """Weight of the KL to the reference in the reward, per nat, before responses are compared."""
    kl_loss_coeff: float = argument(0.0, minimum=0)
    """Weight of the KL to the reference in the loss. If this and kl_coeff are 0, no reference is loaded."""
    kl_loss_estimator: KLLossKind = argument("k3", inert_when=where("kl_loss_coeff", 0))
    """Estimate of the KL in the loss; k1+, k3+ and abs+ have the value of k1, k3 or abs and the gradient of k2, which
    is that of the KL. The expected gradient of k1 alone is 0.
    """
    pg_loss_coeff: float = argument(1.0, minimum=0)
    """Weight of the policy loss."""
    clip_range_score: float | None = argument(10.0, above=0, inert_when=where("kl_loss_coeff", 0))
    """Limit of a token's KL in the loss, as in PaddleNLP (rewards are not clipped); null: no limit."""
    normalize_advantage: bool = False
    """Then normalise the advantages of a rollout to mean 0 and variance 1 over all tokens."""
    importance_sampling_level: RatioLevel = "token"
    """What has one ratio of new to old probability: token: each token; sequence: each response, the geometric mean of
    its tokens' ratios (GSPO); sequence_token: the same value, with the gradient of each token's own log-prob.
    """


class Compare(Protocol):
    """Turns the whole rewards of responses into their advantages."""

    def __call__(self, totals: Tensor, judged: Judged, valid: Tensor, hyperparameters: Any) -> Tensor:
        """``totals`` [N] are rewards including the KL penalty, ``valid`` [N] is False for rows that have none."""
        ...


class Surrogate(Protocol):
    """The policy loss proper."""

    def __call__(
        self, logprobs: Tensor, fields: Mapping[str, Tensor], *, hyperparameters: Any, mean: TokenMean
    ) -> Loss:
        """As ``PolicyLossFunction``, without KL and entropy."""
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


def clipped(logprobs: Tensor, fields: Mapping[str, Tensor], *, hyperparameters: Any, mean: TokenMean) -> Loss:
    """Return the clipped policy loss: the ``Surrogate`` of most algorithms."""
    return ppo_policy_loss(
        logprobs,
        fields["old_logprobs"],
        advantages=fields["advantages"],
        clip=hyperparameters.ratio_clip._replace(level=hyperparameters.importance_sampling_level),
        mean=mean,
        weights=fields.get("importance_weights"),
    )


class PolicyLoss:
    """A surrogate plus the KL to the reference, minus the entropy bonus."""

    def __init__(self, surrogate: Surrogate = clipped) -> None:
        self._surrogate = surrogate

    def __call__(
        self,
        logprobs: Tensor,
        fields: Mapping[str, Tensor],
        *,
        hyperparameters: Any,
        denominator: float | Tensor,
        entropy: Tensor | None = None,
    ) -> Loss:
        """Return a micro-batch's share of the loss; see ``PolicyLossFunction``."""
        mean = hyperparameters.token_mean(fields["response_mask"], denominator)
        surrogate = self._surrogate(logprobs, fields, hyperparameters=hyperparameters, mean=mean)
        value, metrics = hyperparameters.pg_loss_coeff * surrogate.value, dict(surrogate.metrics)
        if hyperparameters.kl_loss_coeff:
            kind, clamp = hyperparameters.kl_loss_estimator, hyperparameters.clip_range_score
            kl = kl_loss(logprobs, fields["ref_logprobs"], kind=kind, clamp=clamp)
            value = value + hyperparameters.kl_loss_coeff * mean.of(kl)
            metrics["policy/kl_loss"] = Metric(mean.average(kl).detach())
        if entropy is not None:
            bonus = entropy_bonus(entropy, coeff=hyperparameters.entropy_coeff, mean=mean)
            value, metrics = value + bonus.value, {**metrics, **bonus.metrics}
        return Loss(value, metrics)


def needs_reference(hyperparameters: Any) -> bool:
    """Tell whether the KL to the reference has any weight; without, the reference would only cost memory."""
    return hyperparameters.kl_coeff > 0 or hyperparameters.kl_loss_coeff > 0
