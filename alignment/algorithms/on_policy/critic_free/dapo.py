"""DAPO: GRPO with a higher upper clip, a mean over all tokens, dynamic sampling and no KL (Yu et al. 2025).

Its reward also falls over the last tokens before the length limit, which is a term of the reward and not part of the
algorithm: ``enable_overlong_reward_buffer``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from alignment.algorithms.on_policy.critic_free.grpo import GRPO, GRPOHyperparameters
from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class DAPOHyperparameters(GRPOHyperparameters):
    """Hyperparameters of DAPO."""

    kl_loss_coeff: float = argument(0.0, minimum=0)
    clip_range_ratio_low: float | None = argument(0.2, above=0, below=1)
    clip_range_ratio_high: float | None = argument(0.28, above=0)
    dynamic_sampling: bool = argument(True, aliases=("dynamic_filtering",))


DAPO = replace(GRPO, name="dapo", title="DAPO", hyperparameters=DAPOHyperparameters)
