"""Arguments of supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from alignment.arguments import validate
from alignment.arguments.columns import ColumnArguments
from alignment.arguments.compatibility import CompatibilityArguments
from alignment.arguments.data import DataArguments
from alignment.arguments.groups import Groups
from alignment.arguments.model import ModelArguments
from alignment.arguments.offline import OfflineArguments
from alignment.arguments.parallel import ParallelArguments
from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import Check, parse_arguments
from alignment.arguments.training import TrainingArguments

GROUPS: Groups = MappingProxyType(
    {
        "offline": OfflineArguments,
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
