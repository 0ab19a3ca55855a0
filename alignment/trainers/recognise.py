"""Which trainer an argument file is for, where nobody says it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from alignment.arguments.groups import declare
from alignment.errors import ArgumentError
from alignment.trainers.registered import TRAINERS


def recognise_trainer(given: Iterable[str], path: Path) -> str:
    """Return the name of the trainer that the file ``path`` with the keys ``given`` is for.

    It is the one that knows all the keys, or most of them; between several that know as many the file's name decides.
    ArgumentError where the name does not. Only what can be meant is imported: a PPO file needs no Paddle.
    """
    keys = set(given)
    candidates = [name for name in TRAINERS if keys & TRAINERS[name].model_keys] or list(TRAINERS)
    if len(candidates) == 1:
        return candidates[0]
    strange = {name: len(keys - _known(name)) for name in candidates}
    fitting = [name for name in candidates if strange[name] == min(strange.values())]
    words = set(re.split(r"[^a-z]+", path.stem.lower()))
    named = [name for name in fitting if name in words]
    if len(fitting) > 1 and len(named) != 1:
        raise ArgumentError(
            f"{path}: its keys do not tell which trainer it is for, and its name does not either: say --trainer NAME "
            f"(allowed: {', '.join(fitting)})"
        )
    return named[0] if named else fitting[0]


def _known(name: str) -> set[str]:
    return {key for slot in declare(TRAINERS[name].groups) for key in slot.names}
