"""Arguments of reward modelling."""

from __future__ import annotations

from collections import Counter
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
from alignment.fields import argument, unless, where

_REGRESSION = where("objective", "regression", why="attributes are predicted as they are")


@dataclass(frozen=True, kw_only=True)
class RewardArguments(OfflineArguments):
    """What to train on, from which model, and the score head."""

    value_head_prefix: str | None = None
    """Name of the score head in the files of the score model to start from, if it is not a usual one."""
    objective: Literal["reward", "cost", "regression"] = "reward"
    """reward: the better answer scores higher; cost: the less safe answer scores higher, with the sign of is_safe;
    regression: predict the attributes of each answer, a score for each.
    """
    attributes: tuple[str, ...] = argument(
        (), keeps_repeats=True, inert_when=unless("objective", "regression", why="objective is not regression")
    )
    """Names of the attributes in the order of the scores, separated by commas; for files their columns. The mean
    squared error of all values that are not null is trained on.
    """
    num_labels: int | None = argument(None, minimum=1)
    """Number of scores, which must be that of the attributes (1 without); null: as many as needed."""
    score_bias: bool = False
    """Whether the score head has a bias."""

    normalize_score_during_training: bool = argument(False, inert_when=_REGRESSION)
    """Train on normalised scores and save their statistics."""
    normalizer_type: Literal["RunningMeanStd", "ExponentialMovingAverage"] | None = argument(
        "ExponentialMovingAverage", inert_when=_REGRESSION
    )
    """How the mean and variance of scores are tracked; null: not at all."""
    normalizer_momentum: float | None = argument(
        None,
        minimum=0,
        maximum=1,
        inert_when=(
            unless("normalizer_type", "ExponentialMovingAverage", why="normalizer_type does not use it"),
            _REGRESSION,
        ),
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


def check_attributes(v: Values) -> Iterator[str]:
    """Check that a regression names its attributes, each once, and that ``num_labels`` is their number."""
    is_regression = v.objective == "regression"
    if is_regression and not v.attributes:
        yield "objective=regression needs attributes, the names of what is predicted (for files their columns)"
        return
    twice = [name for name, count in Counter(v.attributes).items() if count > 1]
    if twice:
        yield f"attributes names {twice[0]!r} more than once"
    needed = len(v.attributes) if is_regression else 1
    if v.num_labels not in (None, needed):
        what = f"{needed} attributes are named" if is_regression else f"objective={v.objective} has one score"
        yield f"num_labels={v.num_labels}, but {what} (allowed: {needed})"


CHECKS: tuple[Check, ...] = (*validate.CHECKS, validate.check_model_source, check_normalizer, check_attributes)


def parse_reward_arguments(written: Written) -> Parsed:
    """Return the arguments of a reward-model run; see ``parse_arguments``."""
    return parse_arguments(GROUPS, written, checks=CHECKS)
