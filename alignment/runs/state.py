"""Save and restore everything that must survive a killed run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from alignment.device.random_state import random_state, restore_random_state
from alignment.errors import CheckpointError
from alignment.loops.session import Counters
from alignment.parallel.comms.group import Group
from alignment.parallel.comms.together import everywhere, on_main
from alignment.telemetry import log
from alignment.training.checkpoint import Checkpoint, CheckpointStore, ModelWriter
from alignment.training.durable import write_folder
from alignment.training.learner import Learner
from alignment.training.schedules import Schedule

BEST_STEP = "step.txt"
"""File in ``best/`` with the update its weights are from."""


@dataclass(frozen=True)
class StatePart:
    """A piece of JSON state: how to read and how to restore it."""

    read: Callable[[], Any]
    restore: Callable[[Any], None]
    is_optional: bool = False
    """Whether a checkpoint may lack it, as those of earlier versions do."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The models, learners and other state of one run. All processes save, restore and export together.

    ``models`` and ``learners`` are keyed by the names of the models' folders (``policy``, ``value``, ...).
    """

    store: CheckpointStore
    models: Mapping[str, ModelWriter]
    learners: Mapping[str, Learner]
    counters: Counters
    parts: Mapping[str, StatePart]
    kept: Mapping[str, ModelWriter] = field(default_factory=dict)
    """Models that checkpoints hold besides the trained ones; they are neither exported nor kept as the best."""

    def save(self, step: int) -> Path:
        """Write the checkpoint of ``step``."""
        state = {name: part.read() for name, part in self.parts.items()}
        return self.store.save(
            step,
            models={**self.models, **self.kept},
            tensors={f"{name}_optimizer": learner.state() for name, learner in self.learners.items()},
            parts={f"{name}_optimizer": learner.state_parts() for name, learner in self.learners.items()},
            state={
                **state,
                "counters": self.counters.state(),
                "schedules": {name: asdict(learner.schedule) for name, learner in self.learners.items()},
                "random": random_state(),
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore everything but the weights, which were loaded from the checkpoint's model folders."""
        for name, learner in self.learners.items():
            self._restore_learner(f"{name}_optimizer", learner, checkpoint)
            # Checkpoints of earlier versions have no schedules.
            saved = checkpoint.state.get("schedules", {}).get(name)
            if saved is not None:
                _warn_changed_schedule(learner, Schedule(**saved))
        missing = [name for name, part in self.parts.items() if not (part.is_optional or name in checkpoint.state)]
        if missing:
            raise CheckpointError(
                f"cannot resume from {checkpoint.folder}: it has no state for {', '.join(missing)} "
                "(was it written by a run with different options?)"
            )
        idle = [name for name in checkpoint.models if name not in {**self.models, **self.kept}]
        if idle:
            raise CheckpointError(
                f"cannot resume from {checkpoint.folder}: this run trains {', '.join(self.models)} and would drop its "
                f"{', '.join(idle)}. Resume with the trainer and algorithm it was written with, or start a new run "
                f"from {checkpoint.folder / next(iter(self.models))}"
            )
        for name, part in self.parts.items():
            if name not in checkpoint.state:
                continue
            try:
                part.restore(checkpoint.state[name])
            except CheckpointError as error:
                raise CheckpointError(
                    f"cannot resume from {checkpoint.folder}: {error}. Resume with the data, batch sizes and seed it "
                    f"was written with, or start a new run from its models ({', '.join(self.models)})"
                ) from error
        self.counters.load_state(checkpoint.state["counters"])
        self._forget_lost_best()
        if lost := restore_random_state(checkpoint.state["random"]):
            log.info(lost)

    def _restore_learner(self, name: str, learner: Learner, checkpoint: Checkpoint) -> None:
        parts = learner.state_parts()
        known = {parameter for held in self._world.gather_objects(list(parts)) for parameter in held}
        learner.load_state(everywhere(self._world, lambda: checkpoint.tensors(name, parts=parts, known=known)))

    def keep_best(self) -> None:
        """Keep the current weights as the best so far, with their update count."""
        with write_folder(self._best, self._world) as aside:
            for name, write in self.models.items():
                write(aside / name)
            step = str(self.counters.best_step)
            on_main(self._world, lambda: (aside / BEST_STEP).write_text(step, encoding="utf-8"))

    def export(self, *, best: bool) -> dict[str, Path]:
        """Write each model to ``output_dir/NAME``: the best weights if asked for and kept, else the current ones."""
        is_kept = best and self.counters.best_step is not None
        targets = {name: self.store.output_dir / name for name in self.models}
        for name, write in self.models.items():
            with write_folder(targets[name], self._world) as aside:
                if is_kept:
                    on_main(self._world, partial(shutil.copytree, self._best / name, aside, dirs_exist_ok=True))
                else:
                    write(aside)
        return targets

    @property
    def _world(self) -> Group:
        return self.store.topology.world

    @property
    def _best(self) -> Path:
        return self.store.output_dir / "best"

    def _forget_lost_best(self) -> None:
        """Restart the search for the best weights if those known to the checkpoint are not kept here.

        Either the run was killed after a better evaluation replaced them, which will happen again, or they belong to a
        run in another folder. A later evaluation must not be compared with weights that no longer exist.
        """
        step = self.counters.best_step
        if step is not None and not on_main(self._world, self._is_kept, step):
            log.warn(
                f"the best weights so far, from update {step}, are not in {self._best}: the next evaluation counts as "
                "the best"
            )
            self.counters.best_value = self.counters.best_step = None

    def _is_kept(self, step: int) -> bool:
        marker = self._best / BEST_STEP
        return marker.is_file() and marker.read_text(encoding="utf-8") == str(step)

    def check_space(self) -> None:
        """Refuse to start if the disk cannot hold one checkpoint (weights and two moments, float32)."""
        held = [
            (name, part.name, math.prod(part.shape))
            for name, learner in self.learners.items()
            for part in learner.state_parts().values()
        ]
        everyone = {entry for entries in self._world.gather_objects(held) for entry in entries}
        parameters = sum(size for *_, size in everyone)
        on_main(self._world, self._refuse_small_disk, 12 * parameters)

    def _refuse_small_disk(self, needed: int) -> None:
        free = shutil.disk_usage(self.store.output_dir).free
        if free < needed:
            raise CheckpointError(
                f"output_dir={self.store.output_dir}: {free / 2**20:.1f} MiB are free, but one checkpoint needs about "
                f"{needed / 2**20:.1f} MiB. Free some space or name another folder"
            )


def _warn_changed_schedule(learner: Learner, saved: Schedule) -> None:
    """Warn if the learning rate will differ from the one that the checkpoint's run would have used."""
    before, now = asdict(saved), asdict(learner.schedule)
    changes = ", ".join(f"{key} was {before[key]} and is {now[key]}" for key in now if before[key] != now[key])
    if changes:
        update = learner.num_updates
        log.warn(
            f"{learner.name}: the learning rate schedule has changed ({changes}): update {update + 1} uses "
            f"{learner.schedule.learning_rate(update):g}; by the old schedule it was {saved.learning_rate(update):g}"
        )
