"""Paddle, imported at first use, so that hyperparameters can be read and memory planned without it."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Return ``paddle.name``."""
    return getattr(import_module("paddle"), name)
