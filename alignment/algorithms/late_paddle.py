"""Paddle, imported at first use, so that hyperparameters can be read and memory planned without it."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

_module = cache(import_module)  # found at once: formulas ask for it many times a step


def __getattr__(name: str) -> Any:
    """Return ``paddle.name``, which is found here from then on: formulas ask for it many times a step."""
    if name.startswith("__"):
        raise AttributeError(name)  # Python itself asks for them, as an import from here does
    found = globals()[name] = getattr(import_module("paddle"), name)
    return found


class _Functional:
    """``paddle.nn.functional``."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_module("paddle.nn.functional"), name)


functional = _Functional()
