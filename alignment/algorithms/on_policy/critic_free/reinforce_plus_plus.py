"""REINFORCE++: returns of each token, including its KL penalty, normalised over the whole batch (Hu 2025).

The defaults are those of PaddleNLP. Without groups the batch is the baseline; the form with a baseline first subtracts
the mean score of the prompt's responses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from alignment.algorithms.advantages import degenerate_groups, group_normalized, reinforce_returns
from alignment.algorithms.masked import masked_sum, masked_whiten
from alignment.algorithms.on_policy.critic_free.grpo import GRPO
from alignment.algorithms.on_policy.critic_free.responses import (
    CriticFreeHyperparameters,
    kl_to_reference,
    with_peers,
)
from alignment.algorithms.on_policy.spec import Estimate, Judged
from alignment.algorithms.rewards import kl_rewards, shape_rewards
from alignment.fields import argument, inert


@dataclass(frozen=True, kw_only=True)
class ReinforcePlusPlusHyperparameters(CriticFreeHyperparameters):
    """Hyperparameters of REINFORCE++ and of its form with a baseline."""

    kl_coeff: float = argument(0.02, minimum=0)
    """Weight of the KL to the reference in each token's reward, per nat; the initial value if kl_target is given."""
    kl_loss_coeff: float = argument(0.001, minimum=0)
    clip_range_score: float = argument(10.0, above=0)
    """Scores are clipped to plus or minus this, and so is a token's KL in the loss."""
    gamma: float = argument(1.0, minimum=0, maximum=1)
    """Discount of later rewards, per token."""
    normalize_advantage: bool = inert(True, "the returns of a rollout are always normalised, as in PaddleNLP")


def estimate(
    judged: Judged,
    *,
    hyperparameters: ReinforcePlusPlusHyperparameters,
    kl_coeff: float | None = None,
    with_baseline: bool = False,
) -> Estimate:
    """Return the normalised return of each token as its advantage.

    ``with_baseline``: scores are first compared with the mean of their group; a response without others then has
    nothing to be compared with, and its advantages are 0.
    """
    kl_coeff = hyperparameters.kl_coeff if kl_coeff is None else kl_coeff
    kl, valid = kl_to_reference(judged, hyperparameters), judged.mask.sum(axis=-1) > 0
    shape = partial(shape_rewards, kl=kl, mask=judged.mask, kl_coeff=kl_coeff)
    rewards = compared = shape(judged.scores, clip_range_score=hyperparameters.clip_range_score)
    used, metrics = judged.mask, {}
    if with_baseline:
        scores = judged.scores.clip(-hyperparameters.clip_range_score, hyperparameters.clip_range_score)
        centred = group_normalized(scores, judged.group_ids, mask=valid, scale="none")
        compared, used = shape(centred, clip_range_score=None), with_peers(judged)
        totals = masked_sum(rewards, judged.mask, dim=-1)
        metrics = degenerate_groups(totals, judged.group_ids, mask=valid)
    returns = reinforce_returns(compared, used, gamma=hyperparameters.gamma)
    penalty = kl_rewards(kl, mask=judged.mask, kl_coeff=kl_coeff) if kl_coeff else None
    return Estimate(masked_whiten(returns, used, unbiased=True), None, rewards, penalty, metrics)


REINFORCE_PLUS_PLUS = replace(
    GRPO,
    name="reinforce_plus_plus",
    title="REINFORCE++",
    hyperparameters=ReinforcePlusPlusHyperparameters,
    min_group_size=1,
    estimate=estimate,
)
REINFORCE_PLUS_PLUS_BASELINE = replace(
    REINFORCE_PLUS_PLUS,
    name="reinforce_plus_plus_baseline",
    title="REINFORCE++ baseline",
    min_group_size=2,
    estimate=partial(estimate, with_baseline=True),
)
