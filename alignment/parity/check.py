"""Compare a layout with one process for several runs, starting the processes once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.errors import UserError
from alignment.parity.comparison import Difference, compare
from alignment.parity.subjects import Subject, as_one_process, write_arguments
from alignment.parity.trajectory import Trajectory, run_trainers


class References:
    """Trajectories of one process, run once for each amount of work to compare with."""

    def __init__(self, folder: Path, *, timeout: float) -> None:
        self._folder = folder
        self._timeout = timeout
        self._known: dict[str, Trajectory] = {}

    def get(self, batch_ranks: int, changes: Mapping[str, Any], subjects: Sequence[Subject]) -> list[Trajectory]:
        """Return the trajectories of one process that does the work of ``batch_ranks``."""
        alone = [
            as_one_process({**subject.changes, **changes}, batch_ranks=batch_ranks, trainer=subject.trainer)
            for subject in subjects
        ]
        keys = [f"{subject.trainer} {changed}" for subject, changed in zip(subjects, alone, strict=True)]
        jobs = {}
        for key, subject, changed in zip(keys, subjects, alone, strict=True):
            if key not in self._known and key not in jobs:
                output = f"one-{len(self._known) + len(jobs)}"
                jobs[key] = subject.trainer, write_arguments(self._folder, subject.trainer, output, changed)
        if jobs:
            found = run_trainers(list(jobs.values()), world_size=1, timeout=self._timeout)
            self._known |= dict(zip(jobs, found, strict=True))
        return [self._known[key] for key in keys]


def check_layout(
    folder: Path,
    references: References,
    changes: Mapping[str, Any],
    *,
    world_size: int,
    batch_ranks: int,
    timeout: float,
    subjects: Sequence[Subject],
) -> dict[str, Difference | UserError]:
    """Return, by the label of each subject, the difference from one process, or the error: a refusal or a ProcessError.

    ``folder`` holds the models of ``make_models``.
    """
    output = "layout-" + "-".join(re.sub(r"[^\w.-]", "", str(value)) for value in changes.values())
    jobs = [
        (
            subject.trainer,
            write_arguments(
                folder,
                subject.trainer,
                f"{output}-x{world_size}-{subject.label.replace(' ', '-')}",
                {**subject.changes, **changes, "overwrite_output_dir": True},
            ),
        )
        for subject in subjects
    ]
    try:
        expected = references.get(batch_ranks, changes, subjects)
        found = run_trainers(jobs, world_size=world_size, timeout=timeout)
    except UserError as error:
        return {subject.label: error for subject in subjects}
    return {subject.label: compare(*pair) for subject, *pair in zip(subjects, expected, found, strict=True)}
