"""Align language models on PaddlePaddle: SFT, reward models, DPO, PPO, GRPO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignment.commands.train import Finished

__version__ = "0.1.0"
__all__ = ["__version__", "train"]


def train(trainer: str, arguments: Mapping[str, Any]) -> Finished:
    """Train in this process, for notebooks: ``alignment.train("ppo", {"train_datasets": ..., ...})``.

    ``arguments`` are the keys of an argument file. Returns the output folder and the metrics; user errors raise
    UserError. Call it before importing Paddle, which reads the host's settings only once; otherwise a warning says
    what differs.
    """
    from alignment.commands.train import train_here

    return train_here(trainer, arguments)
