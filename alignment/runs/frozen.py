"""Check that what a run only reads (reference, reward model, tokenizer, reward function) is unchanged on resume."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import CheckpointError
from alignment.models.config import CONFIG_FILE
from alignment.models.folders.weight_files import FORMATS
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.comms.group import Group
from alignment.parallel.comms.together import on_main
from alignment.runs.launch import Launch
from alignment.runs.state import StatePart
from alignment.telemetry import log
from alignment.training.checksums import hash_file, hash_files

FROZEN = "frozen"
"""Name of this part of a checkpoint's state."""
_SUFFIXES = tuple(form.suffix for form in FORMATS)


class FrozenInput(NamedTuple):
    """An input that must not change."""

    name: str
    """Its name in messages."""
    place: str
    content: str
    """A checksum."""
    may_change: bool = False
    """Whether a change is only a warning: code may be fixed between a failure and the next start."""


def frozen_model(name: str, folder: str, world: Group) -> FrozenInput:
    """Return the model in ``folder`` (configuration and weights), or only a configuration if ``folder`` is a file.

    All processes of ``world`` call it together, and each reads a share.
    """
    place = Path(folder)
    if place.is_file():
        return FrozenInput(name, folder, on_main(world, hash_file, place))
    files = [path for path in place.iterdir() if path.name == CONFIG_FILE or path.name.endswith(_SUFFIXES)]
    checksums = hash_files(place, {path.name: path.stat().st_size for path in sorted(files)}, world)
    return FrozenInput(name, folder, _digest(checksums))


def frozen_tokenizer(place: str, tokenizer: Tokenizer) -> FrozenInput:
    """Return the vocabulary and chat template of the ``tokenizer`` in ``place``."""
    return FrozenInput("the tokenizer", place, _digest([tokenizer.fingerprint(), tokenizer.chat_template]))


def frozen_function(function: Callable[..., Any]) -> list[FrozenInput]:
    """Return the file of the reward ``function``, if Python knows it."""
    try:
        place = inspect.getsourcefile(function)
        return [FrozenInput("the file of reward_function", place, hash_file(Path(place)), may_change=True)]
    except (TypeError, OSError):
        return []


def frozen_part(launch: Launch, inputs: Sequence[FrozenInput]) -> StatePart:
    """Return the state that records ``inputs``; refuse to resume from a checkpoint that was written with others.

    This happens before anything is loaded. Checkpoints of earlier versions have no record.
    """
    known = {} if launch.checkpoint is None else launch.checkpoint.state.get(FROZEN, {})
    for item in inputs:
        if known.get(item.name, item.content) == item.content:
            continue
        what = f"{item.name} ({item.place}) has changed since {launch.checkpoint.folder} was written"
        if not item.may_change:
            models = ", ".join(launch.checkpoint.models)
            raise CheckpointError(
                f"cannot resume: {what}. Restore it, or start a new run from the checkpoint's {models}"
            )
        log.warn(what)
    contents = {item.name: item.content for item in inputs}
    return StatePart(lambda: contents, lambda _: None, is_optional=True)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
