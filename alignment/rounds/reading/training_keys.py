"""The keys of the stage that trains: those of its trainer, with reference and critic chosen where there are any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignment.arguments.groups import declare
from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import parse_arguments
from alignment.arguments.sources import NestedKeys
from alignment.errors import UserError
from alignment.rounds.reading.loop_arguments import TrainStageArguments
from alignment.rounds.reading.stage_keys import StageKeys, parse_stage, told_problems
from alignment.trainers.registered import TRAINERS
from alignment.trainers.trainer import Trainer

_OWN_KEYS = ("trainer", "num_processes", "nproc_per_node")


@dataclass(frozen=True)
class Training:
    """The stage that trains."""

    trainer: Trainer
    num_processes: int
    keys: StageKeys
    model_key: str
    """The key of the model that it starts from."""
    has_reference: bool
    has_critic: bool
    reference_key: str | None
    """The key of the reference; None: it is the model that training starts from."""


def read_training(section: NestedKeys, model: str, problems: list[str]) -> Training | None:
    """Read the stage that trains, with ``model`` for the model that it starts from; None if there are ``problems``,
    which are added.
    """
    own = {key: value for key, value in section.keys.items() if key in _OWN_KEYS}
    rest = section._replace(keys={key: value for key, value in section.keys.items() if key not in own})
    try:
        parsed = parse_arguments({"train": TrainStageArguments}, section._replace(keys=own))
        given: TrainStageArguments = parsed.train
        trainer = TRAINERS[given.trainer]
    except UserError as error:
        problems += [f"train: {problem}" for problem in told_problems(error)]
        return None
    if given.num_processes > 1 and trainer.door is None:
        problems.append(f"train: num_processes={given.num_processes}: {trainer.name} has no script for the launcher")
    names = {slot.name for slot in declare(trainer.groups)}
    model_key = "actor_model_name_or_path" if "actor_model_name_or_path" in names else "model_name_or_path"
    reference_key = "ref_model_name_or_path" if "ref_model_name_or_path" in names else None
    filled: dict[str, Any] = {
        **{"train_datasets": f"jsonl:1.0:{__file__}", model_key: model, "output_dir": "train"},
        **{"overwrite_output_dir": True, "resume_from_checkpoint": None},
        **({reference_key: None} if reference_key else {}),
    }
    keys = parse_stage("train", rest, trainer.groups, filled=filled, checks=trainer.checks, problems=problems)
    if keys is None:
        return None
    return Training(
        trainer,
        given.num_processes,
        keys,
        model_key,
        has_reference=_needs_reference(trainer, keys.parsed),
        has_critic="critic" in keys.parsed.groups,
        reference_key=reference_key,
    )


def _needs_reference(trainer: Trainer, parsed: Parsed) -> bool:
    """Tell whether training compares with a reference model."""
    if trainer.is_on_policy:
        from alignment.runs.on_policy.algorithm import ChosenAlgorithm

        return ChosenAlgorithm.of(parsed).needs_reference
    from alignment.trainers.offline_arguments import KEYS

    needs = KEYS[trainer.name].needs_reference if trainer.name in KEYS else None
    return needs is not None and needs(parsed.groups.get("loss"))
