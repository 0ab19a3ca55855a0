"""Everything that must survive a kill, gathered from its owners, and put back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.errors import CheckpointError
from alignment.loops.session import Counters
from alignment.parallel.random_state import random_state, restore_random_state
from alignment.telemetry import log
from alignment.training.checkpoint import Checkpoint, CheckpointStore, ModelWriter
from alignment.training.durable import write_folder
from alignment.training.learner import Learner

BEST_STEP = "step.txt"
"""Says in ``best/`` which update its weights are of."""


@dataclass(frozen=True)
class StatePart:
    """One owner of JSON state: how to read it and how to put it back."""

    read: Callable[[], Any]
    restore: Callable[[Any], None]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The models, learners and small state of one run.

    ``models`` and ``learners`` share their names (``policy``, ``value``, ...), which are also the folders' names.
    """

    store: CheckpointStore
    models: Mapping[str, ModelWriter]
    learners: Mapping[str, Learner]
    counters: Counters
    parts: Mapping[str, StatePart]

    def save(self, step: int) -> Path:
        """Write the checkpoint of ``step``."""
        state = {name: part.read() for name, part in self.parts.items()}
        return self.store.save(
            step,
            models=self.models,
            tensors={f"{name}_optimizer": learner.state() for name, learner in self.learners.items()},
            state={**state, "counters": self.counters.state(), "random": random_state()},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put back everything but the weights, which were loaded from the checkpoint's model folders."""
        for name, learner in self.learners.items():
            learner.load_state(checkpoint.tensors(f"{name}_optimizer"))
        missing = [name for name in self.parts if name not in checkpoint.state]
        if missing:
            raise CheckpointError(
                f"cannot resume from {checkpoint.folder}: it has no state for {', '.join(missing)} "
                "(was it written by a run with other options?)"
            )
        for name, part in self.parts.items():
            try:
                part.restore(checkpoint.state[name])
            except CheckpointError as error:
                raise CheckpointError(
                    f"cannot resume from {checkpoint.folder}: {error}. Resume with the data, batch sizes and seed it "
                    f"was written with, or start a new run from its models ({', '.join(self.models)})"
                ) from error
        self.counters.load_state(checkpoint.state["counters"])
        self._forget_lost_best()
        restore_random_state(checkpoint.state["random"])

    def keep_best(self) -> None:
        """Keep the present weights as the best so far, with the update count they are of."""
        with write_folder(self._best) as aside:
            for name, write in self.models.items():
                write(aside / name)
            (aside / BEST_STEP).write_text(str(self.counters.best_step), encoding="utf-8")

    def export(self, *, best: bool) -> dict[str, Path]:
        """Write each model to ``output_dir/NAME``: the best weights if asked and kept, else the present ones."""
        is_kept = best and self.counters.best_step is not None
        targets = {name: self.store.output_dir / name for name in self.models}
        for name, write in self.models.items():
            with write_folder(targets[name]) as aside:
                if is_kept:
                    shutil.copytree(self._best / name, aside, dirs_exist_ok=True)
                else:
                    write(aside)
        return targets

    @property
    def _best(self) -> Path:
        return self.store.output_dir / "best"

    def _forget_lost_best(self) -> None:
        """Start the search for the best weights anew where those the checkpoint knows of are not kept here.

        They were replaced when the run was killed after a better evaluation, which comes again, or belong to a run
        in another folder; a later evaluation must not be measured against weights that nobody has.
        """
        step = self.counters.best_step
        marker = self._best / BEST_STEP
        if step is not None and not (marker.is_file() and marker.read_text(encoding="utf-8") == str(step)):
            log.warn(f"the best weights so far, of update {step}, are not in {self._best}: the next evaluation is best")
            self.counters.best_value = self.counters.best_step = None

    def check_space(self) -> None:
        """Refuse to start when the disk cannot hold one checkpoint (weights and two moments, float32)."""
        parameters = sum(int(p.size) for learner in self.learners.values() for _, p in learner.weights())
        needed, free = 12 * parameters, shutil.disk_usage(self.store.output_dir).free
        if free < needed:
            raise CheckpointError(
                f"output_dir={self.store.output_dir}: {free / 2**20:.1f} MiB free, and one checkpoint needs about "
                f"{needed / 2**20:.1f} MiB. Free some space or name another folder"
            )
