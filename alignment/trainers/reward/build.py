"""Train a reward or cost model, from the arguments to the exported model."""

from __future__ import annotations

from alignment.arguments.parser import Written
from alignment.runs.launch import Launch, open_launch
from alignment.runs.offline.train import train_offline
from alignment.trainers.objectives import objective_of
from alignment.trainers.reward.arguments import parse_reward_arguments


def train(written: Written, *, host: str) -> None:
    """Train from the arguments to the exported folder ``reward/``."""
    with open_launch(parse_reward_arguments(written), host=host) as launch:
        train_from(launch)


def train_from(launch: Launch) -> None:
    """Train from an open launch to the exported folder."""
    train_offline(launch, objective_of("rm", launch.parsed))
