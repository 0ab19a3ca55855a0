"""Arguments of the critic's training; where a key is not given the policy's own value holds, as in PaddleNLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignment.arguments.training import SchedulerType
from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class CriticArguments:
    """How the critic is updated."""

    critic_learning_rate: float | None = argument(None, minimum=0)
    """Largest learning rate; null: learning_rate."""
    critic_min_learning_rate: float | None = argument(None, minimum=0)
    """Learning rate at the end of the decay; null: min_learning_rate."""
    critic_lr_scheduler_type: SchedulerType | None = None
    """Shape of the learning rate; null: lr_scheduler_type."""
    critic_warmup_ratio: float | None = argument(None, minimum=0, maximum=1)
    """Share of all updates in which the learning rate rises from 0; null: warmup_ratio."""
    critic_decay_steps: int | None = argument(None, minimum=1)
    """Update at which critic_min_learning_rate is reached; null: decay_steps."""
    critic_weight_decay: float | None = argument(None, minimum=0)
    """Decoupled weight decay; null: weight_decay."""
    critic_recompute: bool | None = None
    """Recompute layer activations in the backward pass; null: recompute."""
    critic_recompute_granularity: Literal["full", "full_attn", "core_attn"] | None = None
    """What critic_recompute recomputes; null: recompute_granularity."""
