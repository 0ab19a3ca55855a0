"""Arguments of reward modelling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from alignment.algorithms.bradley_terry import BradleyTerryHyperparameters
from alignment.arguments import validate
from alignment.arguments.groups import Groups
from alignment.arguments.keys.offline import OfflineArguments
from alignment.arguments.keys.shared import SHARED
from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import Check, Values, Written, parse_arguments
from alignment.fields import argument, unless


@dataclass(frozen=True, kw_only=True)
class RewardArguments(OfflineArguments):
    """What to train on, from which model, and the score head."""

    value_head_prefix: str | None = None
    """Name of the score head in the files of the score model to start from, if it is not a usual one."""
    objective: Literal["reward", "cost"] = "reward"
    """reward: the better answer scores higher; cost: the less safe answer scores higher, with the sign of is_safe."""
    score_bias: bool = False
    """Whether the score head has a bias."""

    normalize_score_during_training: bool = False
    """Train on normalised scores and save their statistics."""
    normalizer_type: Literal["RunningMeanStd", "ExponentialMovingAverage"] | None = "ExponentialMovingAverage"
    """How the mean and variance of scores are tracked; null: not at all."""
    normalizer_momentum: float | None = argument(
        None,
        minimum=0,
        maximum=1,
        inert_when=unless("normalizer_type", "ExponentialMovingAverage", why="normalizer_type does not use it"),
    )
    """Weight of the old statistics in ExponentialMovingAverage at each batch; null: 0.9."""


GROUPS: Groups = MappingProxyType(
    {
        "offline": RewardArguments,
        "loss": BradleyTerryHyperparameters,
        **SHARED,
    }
)


def check_normalizer(v: Values) -> Iterator[str]:
    """Check that normalised scores have statistics."""
    if v.normalize_score_during_training and v.normalizer_type is None:
        yield (
            "normalize_score_during_training=true needs a normalizer_type, got null, which keeps no statistics "
            "(allowed: RunningMeanStd, ExponentialMovingAverage)"
        )


CHECKS: tuple[Check, ...] = (*validate.CHECKS, validate.check_model_source, check_normalizer)


def parse_reward_arguments(written: Written) -> Parsed:
    """Return the arguments of a reward-model run; see ``parse_arguments``."""
    return parse_arguments(GROUPS, written, checks=CHECKS)
