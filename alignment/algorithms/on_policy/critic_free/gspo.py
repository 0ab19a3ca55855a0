"""GSPO: GRPO with one ratio for each response, the geometric mean of its tokens' ratios (Zheng et al. 2025).

The clip range of such a ratio is narrow: the defaults are those of the paper's section 5.1. With
``importance_sampling_level: sequence_token`` it is GSPO-token (section 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from alignment.algorithms.masked import Reduction
from alignment.algorithms.on_policy.critic_free.grpo import GRPO, GRPOHyperparameters
from alignment.algorithms.policy_losses import RatioLevel
from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class GSPOHyperparameters(GRPOHyperparameters):
    """Hyperparameters of GSPO."""

    kl_loss_coeff: float = argument(0.0, minimum=0)
    clip_range_ratio_low: float | None = argument(3e-4, above=0, below=1)
    clip_range_ratio_high: float | None = argument(4e-4, above=0)
    policy_loss_reduction: Reduction = "sequence"
    importance_sampling_level: RatioLevel = "sequence"


GSPO = replace(GRPO, name="gspo", title="GSPO", hyperparameters=GSPOHyperparameters)
