"""Decide what to do with an output folder: start afresh, resume or refuse."""

from __future__ import annotations

from pathlib import Path

from alignment.errors import CheckpointError
from alignment.models.folders.run_models import RUN_MODELS
from alignment.parallel.comms.together import everywhere, on_main
from alignment.parallel.topology import Topology
from alignment.telemetry import log, plots
from alignment.telemetry.report.readiness import FILE as READINESS_FILE
from alignment.training.checkpoint import (
    MANIFEST,
    Checkpoint,
    CheckpointStore,
    find_damage,
    incompleteness,
    step_of,
)
from alignment.training.durable import remove_folder
from alignment.training.weight_average import AVERAGE_FOLDER

RESULT_FOLDERS = (*RUN_MODELS, AVERAGE_FOLDER, "best")
"""Folders that finished runs leave in their output folder besides checkpoints."""


def open_checkpoint(
    store: CheckpointStore, *, resume_from: Path | bool | None, overwrite: bool, is_training: bool = True
) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None for a fresh start.

    ``resume_from``: a checkpoint folder or an output folder, True (the newest complete checkpoint of the store's own
    folder, or a fresh start if there is none), or None. A folder with an earlier run is refused unless ``overwrite``;
    ``remove_replaced`` then clears it, once nothing else can be refused. The main process decides for all.
    """
    world = store.topology.world
    on_main(world, store.clean)
    may_replace = overwrite or not is_training
    if isinstance(resume_from, Path):
        checkpoint = _named(resume_from, store.topology)
        on_main(world, _refuse_replacing, store, checkpoint, may_replace)
        return checkpoint
    if resume_from:
        newest = store.newest()
        log.info(
            f"resuming from {newest}" if newest else f"no complete checkpoint in {store.output_dir}: starting afresh"
        )
        return None if newest is None else everywhere(world, Checkpoint, newest)
    on_main(world, _refuse_replacing, store, None, may_replace)
    return None


def replaced_folders(store: CheckpointStore, checkpoint: Checkpoint | None) -> list[Path]:
    """Return the folders of an earlier run in the store's folder that a run from ``checkpoint`` replaces.

    If ``checkpoint`` is in that folder, these are the later complete checkpoints, which would otherwise be taken for
    the newest of this run; else everything.
    """
    if checkpoint is None or checkpoint.folder.parent.resolve() != store.output_dir.resolve():
        return [*store.all(), *(p for p in map(store.output_dir.joinpath, RESULT_FOLDERS) if p.is_dir())]
    numbered = [path for path in store.all() if incompleteness(path) is None]
    return [path for path in numbered if step_of(path) > checkpoint.state["step"]]


def remove_replaced(store: CheckpointStore, checkpoint: Checkpoint | None) -> None:
    """Remove ``replaced_folders``, in the main process."""
    on_main(store.topology.world, _remove, store, checkpoint)


def _remove(store: CheckpointStore, checkpoint: Checkpoint | None) -> None:
    replaced = replaced_folders(store, checkpoint)
    for path in replaced:
        remove_folder(path)
    if checkpoint is None:
        folder = store.output_dir / plots.FOLDER
        for path in (store.output_dir / READINESS_FILE, folder / plots.KEPT_FILE, *folder.glob("*.png")):
            path.unlink(missing_ok=True)
    if replaced:
        log.info(f"overwrite_output_dir: removed {_names(replaced)}")


def _named(folder: Path, topology: Topology) -> Checkpoint:
    """Return the checkpoint in ``folder``, or the newest undamaged one of the run in it."""
    world, inner = topology.world, CheckpointStore(folder, topology=topology)
    if on_main(world, lambda: folder.is_dir() and not (folder / MANIFEST).exists() and bool(inner.all())):
        newest = inner.newest()
        if newest is None:
            raise CheckpointError(f"resume_from_checkpoint={folder}: none of its checkpoints is complete")
        return everywhere(world, Checkpoint, newest)
    reason = find_damage(folder, world)
    if reason is not None:
        raise CheckpointError(f"cannot resume from {folder}: {reason}")
    return everywhere(world, Checkpoint, folder)


def _refuse_replacing(store: CheckpointStore, checkpoint: Checkpoint | None, may_replace: bool) -> None:
    replaced = [] if may_replace else replaced_folders(store, checkpoint)
    if replaced:
        raise CheckpointError(
            f"output_dir={store.output_dir} holds an earlier run ({_names(replaced)}). Continue it with "
            "--resume_from_checkpoint true, replace it with --overwrite_output_dir true, or name another folder"
        )


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:4]) + (", ..." if len(paths) > 4 else "")
