"""Compare a layout with one process for all trainers, starting the processes once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.errors import UserError
from alignment.parity.comparison import Difference, compare
from alignment.parity.subjects import as_one_process, write_arguments
from alignment.parity.trajectory import Trajectory, run_trainers
from alignment.trainers.registered import TRAINERS


class References:
    """Trajectories of one process, run once for each amount of work to compare with."""

    def __init__(self, folder: Path, *, timeout: float) -> None:
        self._folder = folder
        self._timeout = timeout
        self._known: dict[tuple[int, str], list[Trajectory]] = {}

    def get(self, batch_ranks: int, changes: Mapping[str, Any], trainers: Sequence[str]) -> list[Trajectory]:
        """Return the trajectories of one process that does the work of ``batch_ranks``."""
        alone = {name: as_one_process(changes, batch_ranks=batch_ranks, trainer=name) for name in trainers}
        key = (batch_ranks, repr(alone))
        if key not in self._known:
            jobs = [
                (name, write_arguments(self._folder, name, f"one-{len(self._known)}-{name}", alone[name]))
                for name in trainers
            ]
            self._known[key] = run_trainers(jobs, world_size=1, timeout=self._timeout)
        return self._known[key]


def check_layout(
    folder: Path,
    references: References,
    changes: Mapping[str, Any],
    *,
    world_size: int,
    batch_ranks: int,
    timeout: float,
    trainers: Sequence[str] = tuple(TRAINERS),
) -> dict[str, Difference | UserError]:
    """Return, for each trainer, the difference from one process, or the error: a refusal or a ProcessError.

    ``folder`` holds the models of ``make_models``.
    """
    output = "layout-" + "-".join(re.sub(r"[ /]", "", str(value)) for value in changes.values())
    jobs = [
        (
            name,
            write_arguments(folder, name, f"{output}-x{world_size}-{name}", {**changes, "overwrite_output_dir": True}),
        )
        for name in trainers
    ]
    try:
        expected = references.get(batch_ranks, changes, trainers)
        found = run_trainers(jobs, world_size=world_size, timeout=timeout)
    except UserError as error:
        return dict.fromkeys(trainers, error)
    return {name: compare(one, other) for name, one, other in zip(trainers, expected, found, strict=True)}
