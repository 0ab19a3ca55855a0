"""Arguments of supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from alignment.arguments import validate
from alignment.arguments.columns import ColumnArguments
from alignment.arguments.compatibility import CompatibilityArguments
from alignment.arguments.data import DataArguments
from alignment.arguments.groups import Groups
from alignment.arguments.model import ModelArguments
from alignment.arguments.parallel import ParallelArguments
from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import Check, parse_arguments
from alignment.arguments.training import NO_EVALUATION, TrainingArguments
from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class SFTArguments:
    """What to train on and from which model."""

    train_datasets: str = argument(path="datasets")
    """Questions and answers to train on: name[:proportion[:path]], several separated by commas."""
    eval_datasets: str | None = argument(None, path="datasets", inert_when=NO_EVALUATION)
    """Questions and answers to evaluate on."""
    model_name_or_path: str | None = argument(None, path="model")
    """Folder or hub name of the model to start from."""
    model_config_name_or_path: str | None = argument(None, path="model")
    """config.json, or its folder, of a model to start from random weights (tests, demo)."""


GROUPS: Groups = MappingProxyType(
    {
        "sft": SFTArguments,
        "data": DataArguments,
        "columns": ColumnArguments,
        "model": ModelArguments,
        "training": TrainingArguments,
        "parallel": ParallelArguments,
        "compatibility": CompatibilityArguments,
    }
)
CHECKS: tuple[Check, ...] = (*validate.CHECKS, validate.check_model_source)


def parse_sft_arguments(argv: Sequence[str]) -> Parsed:
    """Return the arguments of a fine-tuning run from ``[file.json] [--key value ...]``; see ``parse_arguments``."""
    return parse_arguments(GROUPS, argv, checks=CHECKS)
