"""Paddle, imported at first use, so that hyperparameters can be read and memory planned without it."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Return ``paddle.name``, which is found here from then on: formulas ask for it many times a step."""
    if name.startswith("__"):
        raise AttributeError(name)  # Python itself asks for them, as an import from here does
    found = globals()[name] = getattr(import_module("paddle"), name)
    return found


class _Functional:
    """``paddle.nn.functional``."""

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__[name] = getattr(import_module("paddle.nn.functional"), name)
        return found


functional = _Functional()
