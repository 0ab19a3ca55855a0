"""Arguments of the reward source: a model, a Python function or an HTTP service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignment.fields import argument, where, where_given

_NOT_ASKED = where("use_rm_server", False)
_NOT_CALLED = where_given(
    "reward_model_name_or_path", "rewards come from a model, which is not called over a network and not retried"
)
_NO_MODEL = where("reward_model_name_or_path", None, why="there is no reward model")


@dataclass(frozen=True, kw_only=True)
class RewardSourceArguments:
    """Exactly one of reward_model_name_or_path, reward_function and use_rm_server."""

    reward_model_name_or_path: str | None = argument(None, path="model")
    """Folder or hub name of the reward model."""
    value_head_prefix: str | None = None
    """Name of the score head in the files of the reward model and the critic, if it is not a usual one."""
    reward_attribute_weights: tuple[float, ...] | None = argument(None, keeps_repeats=True, inert_when=_NO_MODEL)
    """For a reward model with several scores (attributes): the weight of each; their weighted sum is the reward."""
    score_before_padding: bool = argument(False, inert_when=_NO_MODEL)
    """Read scores before the reward model's pad_token_id, as transformers does (models trained with pad = eos)."""
    reward_function: str | None = argument(None, path="function")
    """A Python function as package.module:function or file.py:function."""
    use_rm_server: bool = False
    """Ask the HTTP service at reward_server."""
    reward_server: str | None = argument(None, inert_when=_NOT_ASKED)
    """Address of the service, http://host:port/path."""
    reward_timeout: float = argument(60.0, above=0, inert_when=_NOT_ASKED)
    """Seconds allowed for a request to the service."""
    reward_retries: int = argument(3, minimum=0, inert_when=_NOT_CALLED)
    """Retries after a failure that may be temporary: connection, timeout, status 500 and above."""
    on_reward_failure: Literal["stop", "mask_group"] = argument("stop", inert_when=_NOT_CALLED)
    """After the last retry: end the run, or exclude all responses to that prompt from the losses; never a 0."""
    normalize_reward: bool = False
    """Subtract the mean and divide by the standard deviation of rewards."""
    per_device_reward_batch_size: int = argument(-1, minimum=-1, excluded=(0,), inert_when=_NO_MODEL)
    """Rows per forward pass of the reward model; -1: per_device_train_batch_size."""
