"""Arguments to a reward-model (or cost-model) run."""

from __future__ import annotations

from alignment.arguments.parser import Written
from alignment.runs.launch import Launch, open_launch
from alignment.runs.offline.train import train_offline
from alignment.trainers.objectives import SCORE_OBJECTIVES
from alignment.trainers.reward.arguments import parse_reward_arguments


def train(written: Written, *, host: str) -> None:
    """Train a reward model from its arguments to the exported folder ``reward/``."""
    with open_launch(parse_reward_arguments(written), host=host) as launch:
        train_from(launch)


def train_from(launch: Launch) -> None:
    """Train a reward model from its start to the exported folder."""
    train_offline(launch, SCORE_OBJECTIVES[launch.parsed.offline.objective])
