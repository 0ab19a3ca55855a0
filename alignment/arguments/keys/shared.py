"""The argument groups of every trainer."""

from __future__ import annotations

from types import MappingProxyType

from alignment.arguments.groups import Groups
from alignment.arguments.keys.adapter import AdapterArguments
from alignment.arguments.keys.columns import ColumnArguments
from alignment.arguments.keys.compatibility import CompatibilityArguments
from alignment.arguments.keys.data import DataArguments
from alignment.arguments.keys.model import ModelArguments
from alignment.arguments.keys.parallel import ParallelArguments
from alignment.arguments.keys.training import TrainingArguments

SHARED: Groups = MappingProxyType(
    {
        "data": DataArguments,
        "columns": ColumnArguments,
        "model": ModelArguments,
        "adapter": AdapterArguments,
        "training": TrainingArguments,
        "parallel": ParallelArguments,
        "compatibility": CompatibilityArguments,
    }
)
"""Group name to dataclass."""
