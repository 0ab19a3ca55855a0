"""Arguments of the critic; as in PaddleNLP, its training keys default to those of the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from alignment.arguments.keys.training import SchedulerType
from alignment.fields import Case, Situation, argument, where_given


def _schedule(s: Situation) -> str:
    return s.values["critic_lr_scheduler_type"] or s.values["lr_scheduler_type"]


def _is_flat(value: Any, s: Situation) -> bool:
    return bool(value) and _schedule(s) in ("constant", "constant_with_warmup")


def _is_constant(value: Any, s: Situation) -> bool:
    return bool(value) and _schedule(s) == "constant"


def _counts_steps(value: Any, s: Situation) -> bool:
    return bool(value) and s.values["warmup_steps"] > 0


def _keeps_activations(value: Any, s: Situation) -> bool:
    recompute = s.values["critic_recompute"]
    return value is not None and not (s.values["recompute"] if recompute is None else recompute)


_NO_DECAY = Case(_is_flat, "the critic's learning rate does not decay")
_NO_WARMUP = (
    Case(_is_constant, "the critic's learning rate is constant"),
    Case(_counts_steps, "warmup_steps is set and wins"),
)
_NO_RECOMPUTE = Case(_keeps_activations, "the critic does not recompute")


@dataclass(frozen=True, kw_only=True)
class CriticArguments:
    """The critic's starting model and how it is updated."""

    reward_critic_model_name_or_path: str | None = argument(None, path="model", aliases=("critic_model_name_or_path",))
    """Folder or hub name of the model the critic starts from; null: critic_init decides."""
    critic_init: Literal["reward_model", "policy", "scratch"] = argument(
        "reward_model", inert_when=where_given("reward_critic_model_name_or_path")
    )
    """What the critic starts from: the reward model; the policy's model with a score head drawn from seed; or random
    weights of the policy's shape.
    """
    freezing_actor_steps: int = argument(-1, minimum=-1, aliases=("critic_warmup",))
    """Rollouts at the start from which only the critic learns: the policy keeps its weights, and its learning rate
    schedule begins afterwards. -1: none.
    """
    per_device_value_batch_size: int = argument(-1, minimum=-1, excluded=(0,))
    """Rows per forward pass of the critic; -1: per_device_train_batch_size."""
    critic_learning_rate: float | None = argument(None, minimum=0)
    """Peak learning rate; null: learning_rate."""
    critic_min_learning_rate: float | None = argument(None, minimum=0, inert_when=_NO_DECAY)
    """Learning rate at the end of the decay; null: min_learning_rate."""
    critic_lr_scheduler_type: SchedulerType | None = None
    """Learning rate schedule; null: lr_scheduler_type."""
    critic_warmup_ratio: float | None = argument(None, minimum=0, maximum=1, inert_when=_NO_WARMUP)
    """Share of all updates in which the learning rate rises from 0; null: warmup_ratio."""
    critic_decay_steps: int | None = argument(None, minimum=1, inert_when=_NO_DECAY)
    """Update at which critic_min_learning_rate is reached; null: decay_steps."""
    critic_weight_decay: float | None = argument(None, minimum=0)
    """Decoupled weight decay; null: weight_decay."""
    critic_recompute: bool | None = None
    """Recompute layer activations in the backward pass; null: recompute."""
    critic_recompute_granularity: Literal["full", "full_attn", "core_attn"] | None = argument(
        None, inert_when=_NO_RECOMPUTE
    )
    """What critic_recompute recomputes; null: recompute_granularity."""
