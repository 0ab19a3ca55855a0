"""CISPO: GRPO whose ratios are capped weights of the log-probs, so that no token loses its gradient (MiniMax 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alignment.algorithms.masked import TokenMean
from alignment.algorithms.on_policy.critic_free.grpo import GRPO, GRPOHyperparameters
from alignment.algorithms.on_policy.policy_loss import PolicyLoss
from alignment.algorithms.policy_losses import cispo_loss
from alignment.fields import argument, refused
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor

_NO_CLIP = "cispo does not clip the loss: give ratio_cap"


@dataclass(frozen=True, kw_only=True)
class CISPOHyperparameters(GRPOHyperparameters):
    """Hyperparameters of CISPO."""

    kl_loss_coeff: float = argument(0.0, minimum=0)
    ratio_cap: float = argument(5.0, minimum=1)
    """Largest weight of a token's log-prob: the ratio of new to old probability is cut to it (TRL: epsilon_high)."""
    clip_range_ratio: float = refused(0.2, _NO_CLIP)
    clip_range_ratio_low: float | None = refused(None, _NO_CLIP)
    clip_range_ratio_high: float | None = refused(None, _NO_CLIP)
    dual_clip: float | None = refused(None, _NO_CLIP)


def surrogate(
    logprobs: Tensor, fields: Mapping[str, Tensor], *, hyperparameters: CISPOHyperparameters, mean: TokenMean
) -> Loss:
    """Return the mean of the capped ratios times advantages times log-probs."""
    return cispo_loss(
        logprobs,
        fields["old_logprobs"],
        advantages=fields["advantages"],
        cap=hyperparameters.ratio_cap,
        level=hyperparameters.importance_sampling_level,
        mean=mean,
        weights=fields.get("importance_weights"),
    )


CISPO = replace(
    GRPO, name="cispo", title="CISPO", hyperparameters=CISPOHyperparameters, policy_loss=PolicyLoss(surrogate)
)
