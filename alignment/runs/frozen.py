"""Check that what a run only reads (reference, reward model, tokenizer, reward function) is unchanged on resume."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import CheckpointError
from alignment.models.config import read_config_dict
from alignment.models.folders.weight_files import find_weight_files
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.comms.group import Group
from alignment.parallel.comms.together import on_main
from alignment.runs.launch import Launch
from alignment.runs.state import StatePart
from alignment.telemetry import log
from alignment.training.checksums import hash_file, hash_files

FROZEN = "frozen"
"""Name of this part of a checkpoint's state."""
_FORM = 2
"""Number of the rule by which contents are computed; those of another rule cannot be compared."""
_WRITER_FIELDS = ("transformers_version", "paddlenlp_version", "_name_or_path")
"""Fields of config.json that say who wrote it; the model does not depend on them."""


class FrozenInput(NamedTuple):
    """An input that must not change."""

    name: str
    """Its name in messages."""
    place: str
    content: str
    """A checksum."""
    may_change: bool = False
    """Whether a change is only a warning: code may be fixed between a failure and the next start."""


def frozen_model(name: str, folder: str, world: Group, known: dict[str, str] | None = None) -> FrozenInput:
    """Return the model in ``folder``: its configuration and the weight files that are read.

    All processes of ``world`` call it together, and each reads a share. ``known``: contents by folder; one that is
    there is not read again, and a new one is added.
    """
    known, place = {} if known is None else known, Path(folder)
    if folder not in known:
        config, sizes = on_main(world, lambda: (_read_meaning(place), _weight_sizes(place)))
        known[folder] = _digest([config, hash_files(place, sizes, world)])
    return FrozenInput(name, folder, known[folder])


def frozen_random_model(name: str, config: str, seed: int, world: Group) -> FrozenInput:
    """Return the model with weights drawn from ``seed`` for the config.json at (or in) ``config``."""
    place = f"{config} with random weights of seed {seed}"
    return FrozenInput(name, place, _digest([on_main(world, _read_meaning, Path(config)), seed]))


def frozen_tokenizer(place: str, tokenizer: Tokenizer, template: str, *, owner: str = "") -> list[FrozenInput]:
    """Return the vocabulary of the ``tokenizer`` in ``place``, and its chat template if ``template``, that of the
    arguments, is ``tokenizer``. ``owner`` follows their names in messages.
    """
    found = [FrozenInput(f"the tokenizer{owner}", place, tokenizer.fingerprint())]
    if template == "tokenizer":
        found.append(FrozenInput(f"the chat template{owner}", place, _digest(tokenizer.chat_template)))
    return found


def frozen_functions(functions: Sequence[Callable[..., Any]]) -> list[FrozenInput]:
    """Return the file of each reward function whose file Python knows, once."""
    found: dict[str, FrozenInput] = {}
    for function in functions:
        with contextlib.suppress(TypeError, OSError):
            place = inspect.getsourcefile(function)
            name = "the file of reward_function" if not found else f"file {len(found) + 1} of reward functions"
            if place not in found:
                found[place] = FrozenInput(name, place, hash_file(Path(place)), may_change=True)
    return list(found.values())


def frozen_part(launch: Launch, find: Callable[[], Sequence[FrozenInput]]) -> StatePart:
    """Return the state that records what ``find`` returns; refuse to resume from a checkpoint that was written with
    other inputs.

    This happens before anything is loaded. A run that does not train neither looks nor refuses: other models are then
    what it is for. Checkpoints of earlier versions have no record, or one that cannot be compared.
    """
    inputs = find() if launch.parsed.training.do_train else ()
    known = {} if launch.checkpoint is None else launch.checkpoint.state.get(FROZEN, {})
    unknown = [item.name for item in inputs if item.name in known and not _is_comparable(known[item.name])]
    if unknown:
        log.warn(
            f"{launch.checkpoint.folder} was written by another version, whose checksums cannot be compared: whether "
            f"{', '.join(unknown)} changed is not checked"
        )
    for item in inputs:
        if item.name in known and item.name not in unknown:
            _compare(launch, item, known[item.name])
    record = {item.name: {"form": _FORM, "place": item.place, "content": item.content} for item in inputs}
    return StatePart(lambda: record, lambda _: None, is_optional=True)


def _is_comparable(record: Any) -> bool:
    return isinstance(record, dict) and record.get("form") == _FORM


def _compare(launch: Launch, item: FrozenInput, record: dict[str, Any]) -> None:
    """Raise CheckpointError, or warn, if ``item`` is not the one that the checkpoint's ``record`` is of."""
    if record["content"] == item.content:
        return
    folder, before = launch.checkpoint.folder, record["place"]
    if os.path.abspath(before) == os.path.abspath(item.place):
        what, cure = f"{item.name} ({before}) has changed since {folder} was written", "Restore it"
    else:
        what = f"{folder} was written with {item.name} {before}, this run names {item.place}"
        cure = f"Name {before} again"
    if not item.may_change:
        models = ", ".join(launch.checkpoint.models)
        raise CheckpointError(f"cannot resume: {what}. {cure}, or start a new run from the checkpoint's {models}")
    log.warn(what)


def _read_meaning(place: Path) -> dict[str, Any]:
    """Return the config.json at (or in) ``place`` without what depends only on who wrote it."""
    config = read_config_dict(place.parent if place.is_file() else place)
    return {key: value for key, value in config.items() if key not in _WRITER_FIELDS}


def _weight_sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each weight file that is read, by its path in ``folder``."""
    paths = (path for part in find_weight_files(folder).parts for path in part)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
