"""Trainers with a single offline objective, which determines their run."""

from __future__ import annotations

from alignment.arguments.parsed import Parsed
from alignment.runs.launch import open_launch
from alignment.runs.offline.train import train_offline
from alignment.trainers.objectives import objective_of


def train_objective(name: str, parsed: Parsed, *, host: str) -> None:
    """Train the objective of the trainer ``name``, from parsed arguments to the exported model."""
    with open_launch(parsed, host=host) as launch:
        train_offline(launch, objective_of(name, parsed))
