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
from alignment.fields import argument, unless, where, where_given

_ATTRIBUTES = where("objective", "regression", "gating", "process", why="only scores of pairs are normalised")
_NO_STEPS = unless("objective", "process", why="objective is not process")
_NO_GATING = unless("objective", "gating", why="objective is not gating")


@dataclass(frozen=True, kw_only=True)
class RewardArguments(OfflineArguments):
    """What to train on, from which model, and the score head."""

    value_head_prefix: str | None = None
    """Name of the score head in the files of the score model to start from, if it is not a usual one."""
    objective: Literal["reward", "cost", "regression", "gating", "process"] = "reward"
    """reward: the better answer scores higher; cost: the less safe answer scores higher, with the sign of is_safe;
    regression: predict the attributes of each answer, a score for each; gating: make one score of the attributes of a
    trained regression, weighed by the prompt, so that the better answer scores higher (ArmoRM's second stage);
    process: predict whether each step of an answer is good, at the token that ends it.
    """
    train_head_only: bool = argument(
        False,
        inert_when=where("objective", "gating", why="a gating network is trained on a frozen model anyway"),
        refused_when=(
            where("lora", True, why="an adapter is what changes the model; train one of the two"),
            where_given(
                "model_config_name_or_path", "weights below a head must be trained ones; give model_name_or_path"
            ),
        ),
    )
    """Train the score head and leave the model below it as it is (ArmoRM's first stage)."""
    placeholder_token: str | None = argument(None, inert_when=_NO_STEPS)
    """Text of the token that ends every step; it must be a single token."""
    reward_tokens: tuple[str, ...] = argument(("+", "-"), inert_when=_NO_STEPS)
    """Texts of the labels of a good and of a bad step; labels may also be true and false, or numbers from 0 to 1."""
    step_aggregation: Literal["min", "product", "mean", "last"] = argument("min", inert_when=_NO_STEPS)
    """How the probabilities of the steps become the score of an answer in PPO and chat."""
    gating_hidden_size: int = argument(1024, minimum=1, inert_when=_NO_GATING)
    """Width of the hidden layers of the gating network."""
    gating_num_layers: int = argument(3, minimum=0, inert_when=_NO_GATING)
    """Hidden layers of the gating network."""
    gating_temperature: float = argument(10.0, above=0, inert_when=_NO_GATING)
    """Divides what the softmax over the attributes gets: a higher one weighs them more evenly."""
    gating_scale: float = argument(1.0, above=0, inert_when=_NO_GATING)
    """The sum of the attributes' weights, by which the score is multiplied."""
    debias_length: Literal["spearman", "pearson"] | None = argument("spearman", inert_when=_NO_GATING)
    """Subtract from each attribute what its score gains with each token of the answer, so that this correlation with
    the length becomes zero on the first 2000 training pairs; null: subtract nothing.
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

    normalize_score_during_training: bool = argument(False, inert_when=_ATTRIBUTES)
    """Train on normalised scores and save their statistics."""
    normalizer_type: Literal["RunningMeanStd", "ExponentialMovingAverage"] | None = argument(
        "ExponentialMovingAverage", inert_when=_ATTRIBUTES
    )
    """How the mean and variance of scores are tracked; null: not at all."""
    normalizer_momentum: float | None = argument(
        None,
        minimum=0,
        maximum=1,
        inert_when=(
            unless("normalizer_type", "ExponentialMovingAverage", why="normalizer_type does not use it"),
            _ATTRIBUTES,
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
    if v.objective != "gating" and v.num_labels not in (None, needed):
        what = f"{needed} attributes are named" if is_regression else f"objective={v.objective} has one score"
        yield f"num_labels={v.num_labels}, but {what} (allowed: {needed})"


def check_gating(v: Values) -> Iterator[str]:
    """Check that a gating network has a trained model below it, and no adapter."""
    if v.objective != "gating":
        return
    if v.model_name_or_path is None:
        yield "objective=gating needs model_name_or_path, the folder of a trained regression (objective=regression)"
    if v.lora:
        yield "objective=gating trains a gating network on a frozen model: lora=true has nothing to adapt; leave it out"


def check_steps(v: Values) -> Iterator[str]:
    """Check that steps have an end and two labels."""
    if v.objective != "process":
        return
    if not v.placeholder_token:
        yield "objective=process needs placeholder_token, the text of the token that ends every step"
    if len(v.reward_tokens) != 2:
        yield f"reward_tokens={','.join(v.reward_tokens)} (allowed: two texts, of a good and of a bad step)"


CHECKS: tuple[Check, ...] = (
    *validate.CHECKS,
    validate.check_model_source,
    check_normalizer,
    check_attributes,
    check_gating,
    check_steps,
)


def parse_reward_arguments(written: Written) -> Parsed:
    """Return the arguments of a reward-model run; see ``parse_arguments``."""
    return parse_arguments(GROUPS, written, checks=CHECKS)
