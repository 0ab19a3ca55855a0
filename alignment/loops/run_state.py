"""Everything that must survive a kill, gathered from its owners, and put back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alignment.errors import CheckpointError
from alignment.loops.session import Counters
from alignment.parallel.random_state import random_state, restore_random_state
from alignment.training.checkpoint import Checkpoint, CheckpointStore, ModelWriter
from alignment.training.durable import write_folder
from alignment.training.learner import Learner


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
            state={**state, "counters": asdict(self.counters), "random": random_state()},
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
            part.restore(checkpoint.state[name])
        for name, value in checkpoint.state["counters"].items():
            setattr(self.counters, name, value)
        restore_random_state(checkpoint.state["random"])

    def keep_best(self) -> None:
        """Keep the present weights as the best so far."""
        self._write_models(self.store.output_dir / "best")

    def export(self, *, best: bool) -> dict[str, Path]:
        """Write each model to ``output_dir/NAME``: the best weights if asked and kept, else the present ones."""
        kept = self.store.output_dir / "best"
        targets = {name: self.store.output_dir / name for name in self.models}
        for name, write in self.models.items():
            with write_folder(targets[name]) as aside:
                if best and kept.is_dir():
                    shutil.copytree(kept / name, aside, dirs_exist_ok=True)
                else:
                    write(aside)
        return targets

    def check_space(self) -> None:
        """Refuse to start when the disk cannot hold one checkpoint (weights and two moments, float32)."""
        parameters = sum(int(p.size) for learner in self.learners.values() for _, p in learner.weights())
        needed, free = 12 * parameters, shutil.disk_usage(self.store.output_dir).free
        if free < needed:
            raise CheckpointError(
                f"output_dir={self.store.output_dir}: {free / 2**20:.0f} MiB free, and one checkpoint needs about "
                f"{needed / 2**20:.0f} MiB. Free some space or name another folder"
            )

    def _write_models(self, target: Path) -> None:
        with write_folder(target) as aside:
            for name, write in self.models.items():
                write(aside / name)
