"""Arguments of where PPO's rewards come from: a model, a Python function or an HTTP service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class RewardSourceArguments:
    """Exactly one of reward_model_name_or_path, reward_function and use_rm_server."""

    reward_model_name_or_path: str | None = argument(None, path="model")
    """Folder or hub name of the reward model."""
    value_head_prefix: str | None = None
    """Name of the score head in the files of the reward model and the critic, where it is none of the usual ones."""
    score_before_padding: bool = False
    """Read scores before the reward model's pad_token_id, as transformers does (models trained with pad = eos)."""
    reward_function: str | None = argument(None, path="function")
    """A Python function as package.module:function or file.py:function."""
    use_rm_server: bool = False
    """Ask the HTTP service at reward_server."""
    reward_server: str | None = None
    """Address of the service, http://host:port/path."""
    reward_timeout: float = argument(60.0, above=0)
    """Seconds for one whole exchange with the service."""
    reward_retries: int = argument(3, minimum=0)
    """Further tries after a failure that may pass: a connection, a timeout, a status of 500 and above."""
    on_reward_failure: Literal["stop", "mask_group"] = "stop"
    """After the last attempt: end the run, or leave all responses to that prompt out of the losses. Never a 0."""
    normalize_reward: bool = False
    """Subtract the mean and divide by the standard deviation of rewards."""
    per_device_reward_batch_size: int = argument(-1, minimum=-1, excluded=(0,))
    """Rows of one forward pass of the reward model; -1: per_device_train_batch_size."""
