"""The policy loss of all on-policy algorithms: a surrogate, the KL to the reference, and the entropy bonus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from alignment.algorithms.kl import kl_loss
from alignment.algorithms.masked import TokenMean
from alignment.algorithms.policy_losses import entropy_bonus, ppo_policy_loss
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


class Surrogate(Protocol):
    """The policy loss proper."""

    def __call__(
        self, logprobs: Tensor, fields: Mapping[str, Tensor], *, hyperparameters: Any, mean: TokenMean
    ) -> Loss:
        """As ``PolicyLossFunction``, without KL and entropy."""
        ...


def clipped(logprobs: Tensor, fields: Mapping[str, Tensor], *, hyperparameters: Any, mean: TokenMean) -> Loss:
    """Return the clipped policy loss: the ``Surrogate`` of most algorithms."""
    return ppo_policy_loss(
        logprobs,
        fields["old_logprobs"],
        advantages=fields["advantages"],
        clip=hyperparameters.ratio_clip,
        mean=mean,
        weights=fields.get("importance_weights"),
    )


class PolicyLoss:
    """A surrogate plus the KL to the reference, minus the entropy bonus; ``importance_weights`` multiply the first."""

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
        if hyperparameters.kl_loss_weight:
            kind, clamp = hyperparameters.kl_loss_estimator, hyperparameters.kl_loss_limit
            kl = kl_loss(logprobs, fields["ref_logprobs"], kind=kind, clamp=clamp)
            value = value + hyperparameters.kl_loss_weight * mean.of(kl)
            metrics["policy/kl_loss"] = Metric(mean.average(kl.detach()))
        if entropy is None:
            assert not hyperparameters.has_entropy_bonus, "an entropy bonus needs the entropy"
            return Loss(value, metrics)
        bonus = entropy_bonus(entropy, coeff=hyperparameters.entropy_coeff, mean=mean)
        return Loss(value + bonus.value, {**metrics, **bonus.metrics})
