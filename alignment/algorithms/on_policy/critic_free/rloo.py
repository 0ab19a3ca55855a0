"""RLOO: compare each response with the mean of the others to its prompt (Ahmadian et al. 2024, "Back to Basics").

The KL is part of the reward, with TRL's weight. TRL and the paper have one ratio for a whole response, and weigh
responses equally: that is ``importance_sampling_level: sequence_product`` with ``policy_loss_reduction: sequence``, or
``preset: trl``. By default the ratio is each token's, as in verl.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from alignment.algorithms.advantages import leave_one_out
from alignment.algorithms.on_policy.critic_free.grpo import GRPO
from alignment.algorithms.on_policy.critic_free.responses import CriticFreeHyperparameters, ResponseEstimate
from alignment.algorithms.on_policy.spec import Judged
from alignment.fields import argument

if TYPE_CHECKING:
    from paddle import Tensor


@dataclass(frozen=True, kw_only=True)
class RLOOHyperparameters(CriticFreeHyperparameters):
    """Hyperparameters of RLOO."""

    kl_coeff: float = argument(0.05, minimum=0)


def compare(totals: Tensor, judged: Judged, valid: Tensor, hyperparameters: Any) -> Tensor:
    """Return the distance [N] of each response to the mean of the others of its group."""
    return leave_one_out(totals, judged.group_ids, mask=valid)


RLOO = replace(GRPO, name="rloo", title="RLOO", hyperparameters=RLOOHyperparameters, estimate=ResponseEstimate(compare))
