"""Arguments of reward modelling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from alignment.arguments import validate
from alignment.arguments.columns import ColumnArguments
from alignment.arguments.compatibility import CompatibilityArguments
from alignment.arguments.data import DataArguments
from alignment.arguments.groups import Groups
from alignment.arguments.model import ModelArguments
from alignment.arguments.parallel import ParallelArguments
from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import Check, Values, parse_arguments
from alignment.arguments.training import NO_EVALUATION, TrainingArguments
from alignment.fields import argument, unless, where


@dataclass(frozen=True, kw_only=True)
class RewardArguments:
    """What to train on, from which model, with which loss."""

    train_datasets: str = argument(path="datasets")
    """Preferences to train on: name[:proportion[:path]], several separated by commas."""
    eval_datasets: str | None = argument(None, path="datasets", inert_when=NO_EVALUATION)
    """Preferences to evaluate on."""
    model_name_or_path: str | None = argument(None, path="model")
    """Folder or hub name of the model to start from (usually the SFT model)."""
    value_head_prefix: str | None = None
    """Name of the score head in the files of a score model to start from, where it is none of the usual ones."""
    model_config_name_or_path: str | None = argument(None, path="model")
    """config.json, or its folder, of a model to start from random weights (tests, demo)."""

    objective: Literal["reward", "cost"] = "reward"
    """reward: the better answer scores higher; cost: the less safe answer does, with the sign of is_safe."""
    loss_type: Literal["sequence-wise", "token-wise"] = "sequence-wise"
    """Compare the scores at the last token, or at every token after the answers part."""
    regularization: float = argument(0.0, minimum=0)
    """Weight of the squared scores in the loss (the page of the reference suite: 0.001)."""
    regularization_convention: Literal["paddlenlp", "safe-rlhf"] = argument(
        "paddlenlp", inert_when=where("regularization", 0)
    )
    """Squared scores of the two answers are added (paddlenlp) or averaged (safe-rlhf, half as large)."""
    score_bias: bool = False
    """Give the score head a bias."""

    normalize_score_during_training: bool = False
    """Train on normalised scores and keep their statistics."""
    normalizer_type: Literal["RunningMeanStd", "ExponentialMovingAverage"] | None = "ExponentialMovingAverage"
    """How the mean and variance of scores are kept; null: not at all."""
    normalizer_momentum: float | None = argument(
        None,
        minimum=0,
        maximum=1,
        inert_when=unless("normalizer_type", "ExponentialMovingAverage", why="normalizer_type does not use it"),
    )
    """Share of the old statistics that ExponentialMovingAverage keeps at each batch; null: 0.9."""


GROUPS: Groups = MappingProxyType(
    {
        "reward": RewardArguments,
        "data": DataArguments,
        "columns": ColumnArguments,
        "model": ModelArguments,
        "training": TrainingArguments,
        "parallel": ParallelArguments,
        "compatibility": CompatibilityArguments,
    }
)


def check_normalizer(v: Values) -> Iterator[str]:
    """Scores are normalised by statistics that something keeps."""
    if v.normalize_score_during_training and v.normalizer_type is None:
        yield (
            "normalize_score_during_training=true needs a normalizer_type, got null, which keeps no statistics "
            "(allowed: RunningMeanStd, ExponentialMovingAverage)"
        )


CHECKS: tuple[Check, ...] = (*validate.CHECKS, validate.check_model_source, check_normalizer)


def parse_reward_arguments(argv: Sequence[str]) -> Parsed:
    """Return the arguments of a reward-model run from ``[file.json] [--key value ...]``; see ``parse_arguments``."""
    return parse_arguments(GROUPS, argv, checks=CHECKS)
