"""Keep the arguments of a run in its checkpoints, and say what a resumed run changes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from alignment.arguments.parsed import SAVED_NAME, Parsed
from alignment.runs.state import StatePart
from alignment.telemetry.report.sections import OF_A_START
from alignment.training.checkpoint import Checkpoint

ARGUMENTS = "arguments"
"""Name of this part of a checkpoint's state."""


def arguments_part(parsed: Parsed) -> StatePart:
    """Return the state that records the values of all keys but those of one start."""
    values = _values(parsed)
    return StatePart(lambda: values, lambda _: None, is_optional=True)


def read_arguments(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the values with which ``checkpoint`` was written, by key.

    Checkpoints of earlier versions do not say; then they are those of the last start in its folder, or nothing.
    """
    if ARGUMENTS in checkpoint.state:
        return checkpoint.state[ARGUMENTS]
    try:
        saved = json.loads((checkpoint.folder.parent / SAVED_NAME).read_text(encoding="utf-8"))
        return {key: row["value"] for key, row in saved.items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}


def describe_changes(parsed: Parsed, before: Mapping[str, Any], *, trained: str) -> str | None:
    """Describe the keys whose values differ from those of ``before``; None if there is nothing to say.

    ``trained`` is the dtype of the trained weights, which a null type of the rollout engine stands for.
    """
    now = _values(parsed)
    null = dict.fromkeys(("rollout_weight_type", "rollout_kv_type"), trained)

    def resolved(key: str, value: Any) -> Any:
        return null.get(key) if value is None else value

    changed = [
        (key, before[key], value)
        for key, value in now.items()
        if key in before and resolved(key, before[key]) != resolved(key, value)
    ]
    return ", ".join(f"{key} was {_spell(old)} and is {_spell(new)}" for key, old, new in changed) or None


def _values(parsed: Parsed) -> dict[str, Any]:
    return {key: value for key, value in json.loads(json.dumps(parsed.as_dict())).items() if key not in OF_A_START}


def _spell(value: Any) -> str:
    """Return a value as an argument file spells it, text without quotes."""
    return value if isinstance(value, str) else json.dumps(value)
