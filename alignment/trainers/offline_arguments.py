"""The arguments of the offline objectives, which are read before Paddle is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from alignment.algorithms.distillation import DistillationHyperparameters, check_own_answers
from alignment.algorithms.supervised_losses import SupervisedHyperparameters
from alignment.arguments import validate
from alignment.arguments.groups import Groups
from alignment.arguments.keys.offline import OfflineArguments, SupervisedArguments
from alignment.arguments.keys.pairwise import PairwiseArguments
from alignment.arguments.keys.reference_model import ReferenceModelArguments
from alignment.arguments.keys.reference_start import ReferenceStartArguments
from alignment.arguments.keys.rollout_engine import RolloutEngineArguments
from alignment.arguments.keys.shared import SHARED
from alignment.arguments.keys.teacher import TeacherArguments
from alignment.arguments.parser import Check
from alignment.data.comparison import check_comparison, check_overlong
from alignment.trainers.registered import TRAINERS
from alignment.trainers.trainer import PreferenceTrainer


class ObjectiveKeys(NamedTuple):
    """What ``OfflineObjective`` says about arguments."""

    arguments: type = OfflineArguments
    hyperparameters: type | None = None
    checks: tuple[Check, ...] = ()
    needs_reference: Callable[[Any], bool] | None = None
    needs_teacher: bool = False


def _preference_keys(trainer: PreferenceTrainer) -> ObjectiveKeys:
    algorithm = trainer.load_algorithm()
    return ObjectiveKeys(
        hyperparameters=algorithm.hyperparameters, checks=algorithm.checks, needs_reference=algorithm.needs_reference
    )


KEYS = {
    "sft": ObjectiveKeys(SupervisedArguments, SupervisedHyperparameters),
    "kd": ObjectiveKeys(hyperparameters=DistillationHyperparameters, checks=(check_own_answers,), needs_teacher=True),
    "pairwise": ObjectiveKeys(PairwiseArguments, checks=(check_comparison, check_overlong)),
} | {
    trainer.name: _preference_keys(trainer)
    for trainer in map(TRAINERS.__getitem__, TRAINERS)
    if isinstance(trainer, PreferenceTrainer)
}
"""Trainer name to the keys of its only objective."""


def objective_groups(trainer: str) -> Groups:
    """Return the argument groups of a run of the offline ``trainer``."""
    keys = KEYS[trainer]
    own: dict[str, type] = {"offline": keys.arguments}
    if keys.hyperparameters is not None:
        own["loss"] = keys.hyperparameters
    if keys.needs_reference is not None:
        own |= {"reference": ReferenceModelArguments, "reference_start": ReferenceStartArguments}
    if keys.needs_teacher:
        own |= {"teacher": TeacherArguments, "engine": RolloutEngineArguments}
    return {**own, **SHARED}


def objective_checks(trainer: str) -> tuple[Check, ...]:
    """Return the checks of combinations of arguments of such a run."""
    return (*validate.CHECKS, validate.check_model_source, *KEYS[trainer].checks)
