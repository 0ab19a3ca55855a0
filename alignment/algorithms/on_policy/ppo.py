"""PPO with a critic and the KL to the reference in the reward (Ouyang et al. 2022; Schulman et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from alignment.algorithms.advantages import gae
from alignment.algorithms.kl import KLLossKind, kl_estimate
from alignment.algorithms.masked import masked_whiten
from alignment.algorithms.on_policy.hyperparameters import OnPolicyHyperparameters
from alignment.algorithms.on_policy.policy_loss import PolicyLoss
from alignment.algorithms.on_policy.spec import Estimate, Judged, OnPolicyAlgorithm, always
from alignment.algorithms.rewards import ClipPlacement, kl_rewards, shape_rewards
from alignment.algorithms.value_losses import clipped_value_loss
from alignment.fields import Case, Situation, argument, inert, where
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


def _has_both_lambdas(value: Any, s: Situation) -> bool:
    return s.values["gae_lambda_value"] is not None and s.values["gae_lambda_alpha"] is not None


_NO_KL_LOSS = where("use_kl_loss", False, why="use_kl_loss is false: the KL is in the reward (kl_coeff)")
_NO_KL = Case(
    lambda value, s: value is not None and not s.values["kl_coeff"] and not s.values["use_kl_loss"],
    "kl_coeff is 0 and use_kl_loss is false",
)
_BOTH_LAMBDAS = Case(_has_both_lambdas, "gae_lambda_value and gae_lambda_alpha win")


@dataclass(frozen=True, kw_only=True)
class PPOHyperparameters(OnPolicyHyperparameters):
    """Hyperparameters of PPO; the defaults are those of the PaddleNLP suite."""

    gamma: float = argument(1.0, minimum=0, maximum=1)
    """Discount of later rewards, per token."""
    gae_lambda: float = argument(0.95, minimum=0, maximum=1, inert_when=_BOTH_LAMBDAS)
    """Weight of later steps in the advantage (0: one step, 1: all)."""
    gae_lambda_value: float | None = argument(None, minimum=0, maximum=1)
    """The same for the returns that the critic learns; null: gae_lambda."""
    gae_lambda_alpha: float | None = argument(None, above=0)
    """If given, the advantages of a response of L tokens have the lambda 1 - 1 / (this * L), at least 0, instead of
    gae_lambda (VAPO: 0.05, with gae_lambda_value 1); null: the same lambda for all lengths.
    """
    normalize_advantage: bool = False
    """Normalise the advantages of a rollout to mean 0 and variance 1 (2025 versions: often true)."""
    advantage_variance: Literal["unbiased", "biased"] = argument(
        "unbiased", inert_when=where("normalize_advantage", False)
    )
    """Whether that variance is divided by the number of tokens minus 1 or by the number (biased: OpenRLHF)."""
    kl_limit: float | None = argument(None, above=0, inert_when=_NO_KL)
    """A token's KL in the reward and in the loss is limited to plus or minus this (OpenRLHF: 10); null: no limit."""
    clip_range_score: float | None = argument(50.0, above=0)
    """Rewards are clipped to plus or minus this (2025 versions: 10); null: not clipped."""
    clip_placement: ClipPlacement = "score"
    """What is clipped: the score alone, or each token's reward including its KL."""
    clip_range_value: float | None = argument(5.0, above=0)
    """New values are clipped to within this distance of the old ones; null: no limit."""
    use_kl_loss: bool = False
    """Whether the KL to the reference is also a loss (give kl_coeff=0 for one of the two alone)."""
    kl_loss_coeff: float = argument(0.001, minimum=0, inert_when=_NO_KL_LOSS)
    """Weight of that loss; PaddleNLP's files give it for PPO too, where it has no effect there either."""
    kl_loss_estimator: KLLossKind = argument("k3", inert_when=_NO_KL_LOSS)
    """Estimate of the KL in the loss; k1+, k3+ and abs+ have the value of k1, k3 or abs and the gradient of k2, which
    is that of the KL. The expected gradient of k1 alone is 0.
    """
    pg_loss_coeff: float = inert(1.0, "ppo has one policy loss, of weight 1: scale learning_rate")
    """Weight of the policy loss (grpo)."""

    @property
    def kl_loss_weight(self) -> float:
        """See ``OnPolicyHyperparameters``."""
        return self.kl_loss_coeff if self.use_kl_loss else 0.0

    @property
    def kl_loss_limit(self) -> float | None:
        """See ``OnPolicyHyperparameters``."""
        return self.kl_limit


def estimate(judged: Judged, *, hyperparameters: PPOHyperparameters, kl_coeff: float | None = None) -> Estimate:
    """Shape rewards, then apply GAE; returns are computed before the advantages are whitened."""
    assert judged.values is not None
    kl_coeff = hyperparameters.kl_coeff if kl_coeff is None else kl_coeff
    kl = limited_kl(judged, hyperparameters)
    rewards = _shaped(judged, kl, hyperparameters, kl_coeff) if judged.rewards is None else judged.rewards
    advantages, returns = advantages_and_returns(rewards, judged.values, mask=judged.mask, numbers=hyperparameters)
    advantages = normalized(advantages, judged.mask, hyperparameters)
    return Estimate(advantages, returns, rewards, kl_rewards(kl, mask=judged.mask, kl_coeff=kl_coeff))


def rewards_of(judged: Judged, *, hyperparameters: PPOHyperparameters, kl_coeff: float) -> Tensor:
    """Return the rewards [N, R] of ``estimate``."""
    return _shaped(judged, limited_kl(judged, hyperparameters), hyperparameters, kl_coeff)


def _shaped(judged: Judged, kl: Tensor, numbers: PPOHyperparameters, kl_coeff: float) -> Tensor:
    return shape_rewards(
        judged.scores,
        kl,
        mask=judged.mask,
        kl_coeff=kl_coeff,
        clip_range_score=numbers.clip_range_score,
        clip_placement=numbers.clip_placement,
    )


def limited_kl(judged: Judged, numbers: PPOHyperparameters) -> Tensor:
    """Return each token's KL [N, R] to the reference as it enters the reward."""
    assert judged.ref_logprobs is not None
    return kl_estimate(judged.old_logprobs, judged.ref_logprobs, kind=numbers.kl_estimator, clamp=numbers.kl_limit)


def normalized(advantages: Tensor, mask: Tensor, numbers: PPOHyperparameters) -> Tensor:
    """Return ``advantages`` [N, R], with mean 0 and variance 1 over all tokens if that is asked for."""
    if not numbers.normalize_advantage:
        return advantages
    return masked_whiten(advantages, mask, unbiased=numbers.advantage_variance == "unbiased")


def advantages_and_returns(
    rewards: Tensor, values: Tensor, *, mask: Tensor, numbers: PPOHyperparameters
) -> tuple[Tensor, Tensor]:
    """Return GAE's advantages and returns [N, R], each with its own lambda."""
    of_values, of_policy = _lambdas(mask, numbers)
    advantages, returns = gae(rewards, values, mask=mask, gamma=numbers.gamma, gae_lambda=of_values)
    if of_policy is not of_values:
        advantages, _ = gae(rewards, values, mask=mask, gamma=numbers.gamma, gae_lambda=of_policy)
    return advantages, returns


def _lambdas(mask: Tensor, numbers: PPOHyperparameters) -> tuple[float, float | Tensor]:
    """Return lambda for the returns and for the advantages; the latter [N, 1] if it depends on the length."""
    of_values = numbers.gae_lambda if numbers.gae_lambda_value is None else numbers.gae_lambda_value
    if numbers.gae_lambda_alpha is None:
        return of_values, numbers.gae_lambda if numbers.gae_lambda_value is not None else of_values
    lengths = mask.sum(axis=-1, keepdim=True).clip(min=1.0)
    return of_values, (1.0 - 1.0 / (numbers.gae_lambda_alpha * lengths)).clip(min=0.0)


def returns_of(rewards: Tensor, values: Tensor, *, mask: Tensor, hyperparameters: PPOHyperparameters) -> Tensor:
    """Return GAE's returns [n, R]."""
    return advantages_and_returns(rewards, values, mask=mask, numbers=hyperparameters)[1]


def value_loss(
    values: Tensor, fields: Mapping[str, Tensor], *, hyperparameters: PPOHyperparameters, denominator: float | Tensor
) -> Loss:
    """Return the clipped value loss."""
    return clipped_value_loss(
        values,
        fields["values"],
        returns=fields["returns"],
        clip_range=hyperparameters.clip_range_value,
        mean=hyperparameters.token_mean(fields["response_mask"], denominator),
    )


PPO = OnPolicyAlgorithm(
    name="ppo",
    title="PPO",
    hyperparameters=PPOHyperparameters,
    needs_critic=True,
    # Even without a penalty, the KL is reported to show how far the policy has moved.
    needs_reference=always,
    min_group_size=1,
    estimate=estimate,
    policy_loss=PolicyLoss(),
    value_loss=value_loss,
    rewards=rewards_of,
    returns=returns_of,
)
