"""OPO: compare a response with the mean of its group weighted by length, the baseline of least variance (Hao et al.
2025, "On-Policy RL with Optimal Reward Baseline").

The paper updates once per rollout, without KL and without entropy bonus: the defaults.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from alignment.algorithms.advantages import minus_weighted_mean
from alignment.algorithms.on_policy.critic_free.grpo import GRPO
from alignment.algorithms.on_policy.critic_free.responses import CriticFreeHyperparameters, ResponseEstimate
from alignment.algorithms.on_policy.spec import Judged

if TYPE_CHECKING:
    from paddle import Tensor


def compare(totals: Tensor, judged: Judged, valid: Tensor, hyperparameters: Any) -> Tensor:
    """Return the distance [N] of each response to its group's mean weighted by length."""
    return minus_weighted_mean(totals, judged.mask.sum(axis=-1), judged.group_ids, mask=valid)


OPO = replace(
    GRPO, name="opo", title="OPO", hyperparameters=CriticFreeHyperparameters, estimate=ResponseEstimate(compare)
)
