"""Arguments to a supervised fine-tuning run."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.runs.launch import Launch, launch
from alignment.runs.offline.train import train_offline
from alignment.trainers.objectives import SFT
from alignment.trainers.sft.arguments import parse_sft_arguments


def train(argv: Sequence[str], *, host: str) -> None:
    """Run supervised fine-tuning from the command line's arguments to the exported model."""
    with launch(parse_sft_arguments(argv), host=host) as start:
        train_from(start)


def train_from(start: Launch) -> None:
    """Run supervised fine-tuning from its start to the exported model."""
    train_offline(start, SFT)
