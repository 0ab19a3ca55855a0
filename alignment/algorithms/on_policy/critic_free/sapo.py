"""SAPO: GRPO whose gradient fades smoothly as a ratio leaves 1, instead of a clip (Gao et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alignment.algorithms.masked import Reduction, TokenMean
from alignment.algorithms.on_policy.critic_free.grpo import GRPO, GRPOHyperparameters
from alignment.algorithms.on_policy.policy_loss import PolicyLoss
from alignment.algorithms.policy_losses import sapo_loss
from alignment.fields import argument, refused
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor

_NO_CLIP = "sapo does not clip: give sapo_temperature_pos and sapo_temperature_neg"


@dataclass(frozen=True, kw_only=True)
class SAPOHyperparameters(GRPOHyperparameters):
    """Hyperparameters of SAPO."""

    kl_loss_coeff: float = argument(0.0, minimum=0)
    policy_loss_reduction: Reduction = "sequence"
    sapo_temperature_pos: float = argument(1.0, above=0)
    """How fast the gradient of a token with a positive advantage fades as its ratio leaves 1."""
    sapo_temperature_neg: float = argument(1.05, above=0)
    """The same for other advantages; larger, because lowering a token raises all others."""
    clip_range_ratio: float = refused(0.2, _NO_CLIP)
    clip_range_ratio_low: float | None = refused(None, _NO_CLIP)
    clip_range_ratio_high: float | None = refused(None, _NO_CLIP)
    dual_clip: float | None = refused(None, _NO_CLIP)


def surrogate(
    logprobs: Tensor, fields: Mapping[str, Tensor], *, hyperparameters: SAPOHyperparameters, mean: TokenMean
) -> Loss:
    """Return the mean of the softly gated ratios times advantages."""
    return sapo_loss(
        logprobs,
        fields["old_logprobs"],
        advantages=fields["advantages"],
        temperatures=(hyperparameters.sapo_temperature_pos, hyperparameters.sapo_temperature_neg),
        level=hyperparameters.importance_sampling_level,
        mean=mean,
        weights=fields.get("importance_weights"),
    )


SAPO = replace(GRPO, name="sapo", title="SAPO", hyperparameters=SAPOHyperparameters, policy_loss=PolicyLoss(surrogate))
