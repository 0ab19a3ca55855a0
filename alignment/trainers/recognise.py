"""Infer which trainer an argument file is for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from alignment.arguments.groups import declare
from alignment.errors import ArgumentError
from alignment.trainers.registered import TRAINERS


def recognise_trainer(given: Iterable[str], path: Path) -> str:
    """Return the name of the trainer that the file ``path`` with the keys ``given`` is for.

    It is the trainer that knows most of the keys; the file's name decides between equals, else ArgumentError. Only
    possible trainers are imported: a PPO file needs no Paddle.
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
            f"{path}: neither its keys nor its name tell which trainer it is for: add --trainer NAME (allowed: "
            f"{', '.join(fitting)})"
        )
    return named[0] if named else fitting[0]


def _known(name: str) -> set[str]:
    return {key for slot in declare(TRAINERS[name].groups) for key in slot.names}
