"""Trainers with a single offline objective, which determines their arguments and run."""

from __future__ import annotations

from alignment.arguments import validate
from alignment.arguments.groups import Groups
from alignment.arguments.keys.reference_model import ReferenceModelArguments
from alignment.arguments.keys.rollout_engine import RolloutEngineArguments
from alignment.arguments.keys.shared import SHARED
from alignment.arguments.keys.teacher import TeacherArguments
from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import Check
from alignment.runs.launch import open_launch
from alignment.runs.offline.objective import OfflineObjective
from alignment.runs.offline.train import train_offline
from alignment.trainers.objectives import objective_of


def objective_groups(objective: OfflineObjective) -> Groups:
    """Return the argument groups of a run that trains ``objective``."""
    own: dict[str, type] = {"offline": objective.arguments}
    if objective.hyperparameters is not None:
        own["loss"] = objective.hyperparameters
    if objective.needs_reference is not None:
        own["reference"] = ReferenceModelArguments
    if objective.needs_teacher:
        own |= {"teacher": TeacherArguments, "engine": RolloutEngineArguments}
    return {
        **own,
        **SHARED,
    }


def objective_checks(objective: OfflineObjective) -> tuple[Check, ...]:
    """Return the checks of combinations of arguments of such a run."""
    return (*validate.CHECKS, validate.check_model_source, *objective.checks)


def train_objective(name: str, parsed: Parsed, *, host: str) -> None:
    """Train the objective of the trainer ``name``, from parsed arguments to the exported model."""
    with open_launch(parsed, host=host) as launch:
        train_offline(launch, objective_of(name, parsed))
