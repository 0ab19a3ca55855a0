"""Several calls in one start of the processes, which takes longer than most of them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.architecture.layout import Layout
from alignment.parallel.local_ranks import run_ranks

HERE = Path(__file__).parent


def run_together(layout: Layout, calls: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Start the processes of ``layout`` once; return for each call ("module:function", *arguments) its results by
    rank.
    """
    target, path = "ranks_together:call_each", [HERE, HERE.parents[1]]
    return list(zip(*run_ranks(target, list(calls), world_size=layout.world_size, search_path=path), strict=True))


def call_each(calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return what each call gives in this process."""
    found = []
    for target, *arguments in calls:
        module, _, name = target.partition(":")
        found.append(getattr(importlib.import_module(module), name)(*arguments))
    return found
