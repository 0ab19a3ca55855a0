"""Arguments of PPO: datasets, models, batches and the algorithm's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from alignment.arguments import validate, validate_ppo
from alignment.arguments.columns import ColumnArguments
from alignment.arguments.compatibility import CompatibilityArguments
from alignment.arguments.critic import CriticArguments
from alignment.arguments.data import DataArguments
from alignment.arguments.generation import GenerationArguments
from alignment.arguments.groups import Groups
from alignment.arguments.model import ModelArguments
from alignment.arguments.parallel import ParallelArguments
from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import Check, parse_arguments
from alignment.arguments.reward_source import RewardSourceArguments
from alignment.arguments.training import NO_EVALUATION, TrainingArguments
from alignment.fields import Case, Situation, argument, inert, refused, unless, where, where_given

_NO_ENGINE = where("use_fusemt", False)


def _has_both_clips(value: Any, s: Situation) -> bool:
    return s.values["clip_range_ratio_low"] is not None and s.values["clip_range_ratio_high"] is not None


_BOTH_CLIPS = Case(_has_both_clips, "clip_range_ratio_low and clip_range_ratio_high win")


@dataclass(frozen=True, kw_only=True)
class PPOArguments:
    """What to train on, from which models, in which batches, with which losses."""

    train_datasets: str = argument(path="datasets")
    """Prompts to train on: name[:proportion[:path]], several separated by commas."""
    eval_datasets: str | None = argument(None, path="datasets", inert_when=NO_EVALUATION)
    """Prompts to evaluate on."""
    ptx_datasets: str | None = argument(None, path="datasets", inert_when=where("ptx_coeff", 0))
    """Supervised data of the language-model loss; null: no such loss."""
    actor_model_name_or_path: str = argument(path="model")
    """Folder or hub name of the model the policy and the reference start from."""
    reward_critic_model_name_or_path: str | None = argument(None, path="model", aliases=("critic_model_name_or_path",))
    """Folder or hub name of the model the critic starts from; null: the reward model."""

    per_device_prompt_batch_size: int = argument(
        16, minimum=1, inert_when=where_given("global_batch_size", "global_batch_size wins")
    )
    """Prompts of one rollout in one process."""
    global_batch_size: int = argument(-1, minimum=-1, excluded=(0,))
    """Prompts of one rollout over all processes; -1: per_device_prompt_batch_size in each that has rows of its own."""
    global_mini_batch_size: int = argument(-1, minimum=-1, excluded=(0,), aliases=("mini_batch_size",))
    """Prompts whose responses make one update, over all processes; -1: gradient_accumulation_steps says it."""
    num_return_sequences: int = argument(1, minimum=1, aliases=("rollout_n",))
    """Responses to each prompt; all are trained on."""
    per_device_rollout_batch_size: int = argument(-1, minimum=-1, excluded=(0,), aliases=("rollout_max_num_seqs",))
    """Sequences generated side by side in one process; -1: all of a rollout."""
    per_device_logprob_batch_size: int = argument(
        -1, minimum=-1, excluded=(0,), aliases=("rollout_logprob_batch_size",)
    )
    """Rows of one forward pass for log-probs of policy and reference; -1: per_device_train_batch_size."""
    per_device_value_batch_size: int = argument(-1, minimum=-1, excluded=(0,))
    """Rows of one forward pass of the critic; -1: per_device_train_batch_size."""
    update_iters: int = argument(1, minimum=1)
    """Times each rollout is trained on."""
    use_fusemt: bool = True
    """Roll out with the fused engine where it can run; else with the eager one. The start of the run says which."""
    rollout_weight_type: Literal["float32", "bfloat16", "int8"] = argument("float32", inert_when=_NO_ENGINE)
    """What the fused engine holds weights in; less than float32 is faster and needs on_logprob_gap to be thought of."""
    rollout_kv_type: Literal["float32", "bfloat16"] = argument("float32", inert_when=_NO_ENGINE)
    """What the fused engine holds keys and values in."""
    rollout_kv_memory: str | None = argument(None, inert_when=_NO_ENGINE)
    """Memory for keys and values in one process, for example 2GiB; null: what all sequences need at their longest."""
    logprob_gap_limit: float = argument(0.05, above=0)
    """Gap between the engine's and the trainer's log-probs, in nats, that 99 % of a rollout's tokens may have."""
    on_logprob_gap: Literal["warn", "correct", "recompute", "stop"] = "warn"
    """What happens above that limit. warn: a line in the log; stop: the run ends; recompute: the trainer's are the old
    log-probs of that rollout, while within the limit the engine's are (with the other words the trainer's always are);
    correct: a line too, and every rollout's policy loss, above the limit or not, is weighted by token by trainer's /
    engine's probability, at most importance_weight_cap."""
    importance_weight_cap: float = argument(2.0, minimum=1, inert_when=unless("on_logprob_gap", "correct"))
    """Largest of these weights."""

    rl_algorithm: Literal["ppo", "grpo", "reinforce_plus_plus"] = refused("ppo", "only ppo is built")
    """Algorithm."""
    kl_coeff: float = argument(0.02, minimum=0)
    """Weight of the KL to the reference in the reward, per nat; the start value when kl_target is given."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Estimate of the KL in the reward: k1 log ratio, k2 half its square, k3 ratio - 1 - log ratio."""
    kl_target: float | None = argument(None, above=0)
    """KL per response, in nats, that kl_coeff is adapted to; null: kl_coeff stays."""
    kl_horizon: float = argument(
        10000.0, above=0, inert_when=where("kl_target", None, why="kl_target is not given: kl_coeff stays")
    )
    """Responses over which kl_coeff adapts."""
    gamma: float = argument(1.0, minimum=0, maximum=1)
    """Discount of later rewards, per token."""
    gae_lambda: float = argument(0.95, minimum=0, maximum=1)
    """Weight of later steps in the advantage (0: one step, 1: all)."""
    normalize_advantage: bool = False
    """Give the advantages of a rollout mean 0 and variance 1 (2025 versions: often true)."""
    clip_range_ratio: float = argument(0.2, above=0, inert_when=_BOTH_CLIPS)
    """The ratio of new to old probability counts inside 1 - it and 1 + it."""
    clip_range_ratio_low: float | None = argument(None, above=0, below=1)
    """Lower half of that range; null: clip_range_ratio."""
    clip_range_ratio_high: float | None = argument(None, above=0)
    """Upper half of that range; null: clip_range_ratio."""
    dual_clip: float | None = argument(None, above=1)
    """Largest loss at a negative advantage, as a multiple of it; null: off."""
    clip_range_score: float = argument(50.0, above=0)
    """Rewards are cut to plus or minus this (2025 versions: 10)."""
    clip_placement: Literal["score", "token"] = "score"
    """What is cut: the score alone, or each token's reward with its KL."""
    clip_range_value: float = argument(5.0, above=0)
    """New values are cut to plus or minus this around the old ones."""
    policy_loss_reduction: Literal["token", "sequence"] = "token"
    """Mean over all tokens, or first over each response and then over responses."""
    entropy_coeff: float = argument(0.0, minimum=0)
    """Weight of the policy's entropy as a bonus."""
    ptx_coeff: float = argument(0.0, minimum=0, inert_when=where("ptx_datasets", None))
    """Weight of the language-model loss on ptx_datasets."""
    kl_loss_coeff: float = inert(0.0, "ppo puts the KL into the reward: give kl_coeff")
    """Weight of a KL loss (grpo)."""
    pg_loss_coeff: float = inert(1.0, "ppo has one policy loss, of weight 1: scale learning_rate")
    """Weight of the policy loss (grpo)."""


GROUPS: Groups = MappingProxyType(
    {
        "ppo": PPOArguments,
        "reward_source": RewardSourceArguments,
        "critic": CriticArguments,
        "generation": GenerationArguments,
        "data": DataArguments,
        "columns": ColumnArguments,
        "model": ModelArguments,
        "training": TrainingArguments,
        "parallel": ParallelArguments,
        "compatibility": CompatibilityArguments,
    }
)
CHECKS: tuple[Check, ...] = (*validate.CHECKS, *validate_ppo.CHECKS)


def parse_ppo_arguments(argv: Sequence[str]) -> Parsed:
    """Return the arguments of a PPO run from ``[file.json] [--key value ...]``; see ``parse_arguments``."""
    return parse_arguments(GROUPS, argv, checks=CHECKS)
