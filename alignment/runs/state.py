"""Save and restore everything that must survive a killed run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
from alignment.training.weight_average import WeightAverage

BEST_STEP = "step.txt"
"""File in ``best/`` with the update its weights are from."""


@dataclass(frozen=True)
class StatePart:
    """A piece of JSON state: how to read and how to restore it."""

    read: Callable[[], Any]
    restore: Callable[[Any], None]
    is_optional: bool = False
    """Whether a checkpoint may lack it, as those of earlier versions do."""


class WrittenAverage(NamedTuple):
    """An average of trained weights, and how to write it as a model."""

    average: WeightAverage
    write: ModelWriter


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
    averages: Mapping[str, WrittenAverage] = field(default_factory=dict)
    """Averages of trained weights, by folder: checkpoints hold their state, and the run exports them as models."""

    def save(self, step: int) -> Path:
        """Write the checkpoint of ``step``."""
        state = {name: part.read() for name, part in self.parts.items()}
        return self.store.save(
            step,
            models={**self.models, **self.kept},
            tensors={name: holder.state() for name, holder in self._holders.items()},
            parts={name: holder.state_parts() for name, holder in self._holders.items()},
            state={
                **state,
                "averages": list(self.averages),
                "counters": self.counters.state(),
                "schedules": {name: asdict(learner.schedule) for name, learner in self.learners.items()},
                "random": random_state(),
            },
        )

    @property
    def _holders(self) -> dict[str, Learner | WeightAverage]:
        """What holds tensors of a checkpoint besides the models, by the name of its file."""
        averages = {name: written.average for name, written in self.averages.items()}
        return {**{f"{name}_optimizer": learner for name, learner in self.learners.items()}, **averages}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore everything but the weights, which were loaded from the checkpoint's model folders."""
        self._check_averages(checkpoint)
        for name, holder in self._holders.items():
            self._restore_tensors(name, holder, checkpoint)
        for name, learner in self.learners.items():
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

    def _check_averages(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint without the averages of this run; say if it has one that this run drops."""
        saved = checkpoint.state.get("averages", [])
        if missing := [name for name in self.averages if name not in saved]:
            raise CheckpointError(
                f"cannot resume from {checkpoint.folder} with use_ema=true: its run kept no average of the weights "
                f"({', '.join(missing)}). Resume without use_ema, or start a new run from its models"
            )
        if dropped := [name for name in saved if name not in self.averages]:
            log.warn(f"{checkpoint.folder} holds {', '.join(dropped)}, which this run drops (use_ema is false)")

    def _restore_tensors(self, name: str, holder: Learner | WeightAverage, checkpoint: Checkpoint) -> None:
        parts = holder.state_parts()
        known = {parameter for held in self._world.gather_objects(list(parts)) for parameter in held}
        holder.load_state(everywhere(self._world, lambda: checkpoint.tensors(name, parts=parts, known=known)))

    def keep_best(self) -> None:
        """Keep the current weights as the best so far, with their update count."""
        with write_folder(self._best, self._world) as aside:
            for name, write in self.models.items():
                write(aside / name)
            step = str(self.counters.best_step)
            on_main(self._world, lambda: (aside / BEST_STEP).write_text(step, encoding="utf-8"))

    def export(self, *, best: bool) -> dict[str, Path]:
        """Write each model to ``output_dir/NAME``: the best weights if asked for and kept, else the current ones.

        Averages are always the current ones.
        """
        is_kept = best and self.counters.best_step is not None
        targets = {name: self.store.output_dir / name for name in self.models}
        for name, write in self.models.items():
            with write_folder(targets[name], self._world) as aside:
                if is_kept:
                    on_main(self._world, partial(shutil.copytree, self._best / name, aside, dirs_exist_ok=True))
                else:
                    write(aside)
        for name, written in self.averages.items():
            targets[name] = self.store.output_dir / name
            with write_folder(targets[name], self._world) as aside:
                written.write(aside)
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
        """Refuse to start if the disk cannot hold one checkpoint (weights, two moments and averages, float32)."""
        held = [
            (name, part.name, (4 if name in self.averages else 12) * math.prod(part.shape))
            for name, holder in self._holders.items()
            for part in holder.state_parts().values()
        ]
        everyone = {entry for entries in self._world.gather_objects(held) for entry in entries}
        on_main(self._world, self._refuse_small_disk, sum(size for *_, size in everyone))

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
