"""Infer which trainer an argument file is for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from alignment.arguments.groups import choosing_keys, declare
from alignment.errors import ArgumentError
from alignment.trainers.registered import TRAINERS


def recognise_trainer(given: Iterable[str], path: Path) -> str:
    """Return the name of the trainer that the file ``path`` with the keys ``given`` is for.

    A key that chooses an on-policy algorithm (``rl_algorithm``) says it. Else it is the trainer that knows most of the
    keys and has the models it cannot do without; the file's name decides between equals, else ArgumentError. Only
    possible trainers are imported: a PPO file needs no Paddle.
    """
    keys = set(given)
    candidates = [name for name in TRAINERS if keys & TRAINERS[name].model_keys] or list(TRAINERS)
    chosen = [name for name in TRAINERS if TRAINERS[name].is_on_policy and keys & _choosing_names(name)]
    candidates = chosen or candidates
    if len(candidates) == 1:
        return candidates[0]
    misfits = {name: _misfits(name, keys) for name in candidates}
    fitting = [name for name in candidates if misfits[name] == min(misfits.values())]
    words = set(re.split(r"[^a-z]+", path.stem.lower()))
    named = [name for name in fitting if name in words]
    if len(fitting) > 1 and len(named) != 1:
        raise ArgumentError(
            f"{path}: neither its keys nor its name tell which trainer it is for: add --trainer NAME (allowed: "
            f"{', '.join(fitting)})"
        )
    return named[0] if named else fitting[0]


def _choosing_names(name: str) -> set[str]:
    """Return the keys that choose the algorithm of a trainer, with their aliases."""
    groups = TRAINERS[name].groups
    return {word for slot in declare(groups) if slot.name in choosing_keys(groups) for word in slot.names}


def _misfits(name: str, keys: set[str]) -> int:
    """Return the number of ``keys`` that the trainer does not know, and of models that it needs and are not given."""
    slots = declare(TRAINERS[name].groups)
    known = {key for slot in slots for key in slot.names}
    models = [slot for slot in slots if slot.is_required and slot.constraint.path == "model"]
    return len(keys - known) + sum(keys.isdisjoint(slot.names) for slot in models)
