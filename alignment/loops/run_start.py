"""Fresh start, resume or refusal: what to do with an output folder."""

from __future__ import annotations

from pathlib import Path

from alignment.errors import CheckpointError
from alignment.telemetry import log
from alignment.training.checkpoint import Checkpoint, CheckpointStore
from alignment.training.durable import remove_folder

RESULT_FOLDERS = ("policy", "value", "reward", "best")
"""What finished runs leave in their output folder beside checkpoints."""


def open_checkpoint(
    store: CheckpointStore, *, resume_from: Path | bool | None, overwrite: bool, is_training: bool = True
) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None for a fresh start.

    ``resume_from``: a checkpoint folder or an output folder, True (the newest complete checkpoint of the store's own
    folder, or a fresh start when there is none), or None. A folder with an earlier run in it is refused unless
    ``overwrite``, which removes the earlier run's checkpoints and models.
    """
    store.clean()
    if isinstance(resume_from, Path):
        return _named(resume_from)
    if resume_from:
        newest = store.newest()
        log.info(
            f"resuming from {newest}" if newest else f"no complete checkpoint in {store.output_dir}: starting afresh"
        )
        return Checkpoint(newest) if newest else None
    earlier = [*store.all(), *(p for p in map(store.output_dir.joinpath, RESULT_FOLDERS) if p.is_dir())]
    if earlier and is_training:
        _make_room(earlier, overwrite=overwrite)
    return None


def _named(folder: Path) -> Checkpoint:
    inner = CheckpointStore(folder)
    if folder.is_dir() and not (folder / "complete.json").exists() and inner.all():
        newest = inner.newest()
        if newest is None:
            raise CheckpointError(f"resume_from_checkpoint={folder}: none of its checkpoints is complete")
        return Checkpoint(newest)
    return Checkpoint(folder)


def _make_room(earlier: list[Path], *, overwrite: bool) -> None:
    names = ", ".join(path.name for path in earlier[:4]) + (", ..." if len(earlier) > 4 else "")
    if not overwrite:
        raise CheckpointError(
            f"output_dir={earlier[0].parent} holds an earlier run ({names}). Continue it with "
            "--resume_from_checkpoint true, replace it with --overwrite_output_dir true, or name another folder"
        )
    for path in earlier:
        remove_folder(path)
    log.info(f"overwrite_output_dir: removed {names}")
