"""Hyperparameters of all on-policy algorithms: the KL in the reward, the clipped ratio, the entropy bonus.

Each field is the argument of that name: the trainer's parser adds the dataclass of the chosen algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.algorithms.kl import KLKind
from alignment.algorithms.masked import Reduction, TokenMean
from alignment.algorithms.policy_losses import RatioClip, RatioLevel
from alignment.fields import Case, Situation, argument, inert, unless, where

if TYPE_CHECKING:
    from paddle import Tensor


def _has_both_clips(value: Any, s: Situation) -> bool:
    return s.values["clip_range_ratio_low"] is not None and s.values["clip_range_ratio_high"] is not None


_BOTH_CLIPS = Case(_has_both_clips, "clip_range_ratio_low and clip_range_ratio_high win")
_FIXED_ENTROPY = where("use_adaptive_entropy", False, why="use_adaptive_entropy is false: entropy_coeff stays")


@dataclass(frozen=True, kw_only=True)
class OnPolicyHyperparameters:
    """Hyperparameters of the loop and the clipped policy loss; an algorithm may change defaults."""

    kl_coeff: float = argument(0.02, minimum=0)
    """Weight of the KL to the reference in the reward, per nat; the initial value if kl_target is given."""
    kl_estimator: KLKind = argument("k1", inert_when=where("kl_coeff", 0))
    """Estimate of the KL in the reward: k1 log ratio, k2 half its square, k3 ratio - 1 - log ratio."""
    kl_target: float | None = argument(None, above=0, inert_when=where("kl_coeff", 0, why="kl_coeff is 0 and stays 0"))
    """KL per response, in nats, to which kl_coeff adapts, of the responses that are learned from (dynamic_sampling
    drops others); null: kl_coeff stays fixed.
    """
    kl_horizon: float = argument(
        10000.0, above=0, inert_when=where("kl_target", None, why="kl_target is not given: kl_coeff stays")
    )
    """Number of responses over which kl_coeff adapts."""
    target_kl: float | None = argument(None, above=0)
    """Skip the other updates from a rollout once the KL between the policy that sampled it and the present one, in nats
    per token (k3), exceeds 1.5 times this. The KL is that of the next update's rows; the first update is always made.
    null: no limit. The target_kl of verl and SheepRLHF is kl_target.
    """
    clip_range_ratio: float = argument(0.2, above=0, inert_when=_BOTH_CLIPS)
    """The ratio of new to old probability is clipped to 1 - this and 1 + this."""
    clip_range_ratio_low: float | None = argument(None, above=0, below=1)
    """The lower limit is 1 - this; null: clip_range_ratio."""
    clip_range_ratio_high: float | None = argument(None, above=0)
    """The upper limit is 1 + this; null: clip_range_ratio."""
    dual_clip: float | None = argument(None, above=1)
    """Largest loss for a negative advantage, as a multiple of its size; null: no limit."""
    policy_loss_reduction: Reduction = "token"
    """token: mean over all tokens; sequence: mean over the tokens of each response, then over responses; constant: sum
    over each response divided by loss_length, then mean over responses, as in Dr. GRPO.
    """
    loss_length: int | None = argument(None, minimum=1, inert_when=unless("policy_loss_reduction", "constant"))
    """Number of tokens that policy_loss_reduction=constant divides by; null: the maximum response length."""
    mask_truncated_completions: bool = argument(False, aliases=("overlong_filtering",))
    """Leave responses that reached the length limit out of the losses. Their rewards still count for their groups."""
    dynamic_sampling: bool = argument(False, aliases=("dynamic_filtering",))
    """Learn only from prompts whose responses have different rewards; further rollouts replace the others."""
    max_gen_batches: int = argument(
        2, minimum=1, aliases=("max_num_gen_batches",), inert_when=where("dynamic_sampling", False)
    )
    """Rollouts sampled for one by dynamic sampling, at most. If fewer prompts than wanted can be learned from by then,
    the updates are made from those; if none can, the run ends with an error.
    """
    importance_sampling_level: RatioLevel = "token"
    """What has one ratio of new to old probability: token: each token; sequence: each response, the geometric mean of
    its tokens' ratios (GSPO); sequence_token: the same value, with the gradient of each token's own log-prob;
    sequence_product: each response, the product of its tokens' ratios (TRL's RLOO).
    """
    entropy_coeff: float = argument(0.0, minimum=0)
    """Weight of the policy's entropy as a bonus; the initial value with use_adaptive_entropy."""
    use_adaptive_entropy: bool = False
    """After each update raise entropy_coeff if the entropy was at most entropy_target, else lower it; the bonus counts
    in updates after one with an entropy at most that.
    """
    entropy_target: float = argument(0.2, above=0, inert_when=_FIXED_ENTROPY)
    """Entropy of a token, in nats, that use_adaptive_entropy keeps the policy from falling below."""
    entropy_coeff_delta: float = argument(0.005, above=0, aliases=("entropy_coef_delta",), inert_when=_FIXED_ENTROPY)
    """By how much entropy_coeff rises or falls."""
    entropy_coeff_min: float = argument(0.0, minimum=0, aliases=("entropy_coef_min",), inert_when=_FIXED_ENTROPY)
    """Lower limit of entropy_coeff."""
    entropy_coeff_max: float = argument(1.0, above=0, aliases=("entropy_coef_max",), inert_when=_FIXED_ENTROPY)
    """Upper limit of entropy_coeff."""

    def token_mean(self, mask: Tensor, denominator: float | Tensor) -> TokenMean:
        """Return the weights with which a micro-batch with ``mask`` [n, R] adds to the losses."""
        assert self.loss_length or self.policy_loss_reduction != "constant", "ChosenAlgorithm fills it in"
        return TokenMean(mask, denominator, self.policy_loss_reduction, self.loss_length or 1.0)

    @property
    def ratio_clip(self) -> RatioClip:
        """The clip range of the ratio."""
        low, high, either = self.clip_range_ratio_low, self.clip_range_ratio_high, self.clip_range_ratio
        limits = (either if low is None else low, either if high is None else high)
        return RatioClip(*limits, self.dual_clip, self.importance_sampling_level)

    @property
    def has_entropy_bonus(self) -> bool:
        """Whether the loss needs the entropy with its gradient."""
        return self.entropy_coeff > 0 or self.use_adaptive_entropy

    @property
    def kl_loss_weight(self) -> float:
        """Weight of the KL to the reference in the policy loss."""
        raise NotImplementedError

    @property
    def kl_loss_limit(self) -> float | None:
        """Limit of a token's KL in the policy loss; None: no limit."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class WithoutCritic(OnPolicyHyperparameters):
    """Keys about the critic that PaddleNLP's files also contain for algorithms without one."""

    per_device_value_batch_size: int = inert(-1, "this algorithm has no critic", minimum=-1, excluded=(0,))
    """Rows per forward pass of the critic."""
    clip_range_value: float | None = inert(5.0, "this algorithm has no critic", above=0)
    """New values are clipped to within this distance of the old ones."""
    freezing_actor_steps: int = inert(-1, "this algorithm has no critic", minimum=-1)
    """Rollouts at the start from which only the critic learns."""
