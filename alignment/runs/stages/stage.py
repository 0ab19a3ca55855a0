"""Run a stage: its rows in units, by one process or several, over as many starts as it takes.

A unit is a fixed range of rows that is computed together, so that what is written depends neither on the number of
processes nor on interruptions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from alignment.arguments.effects import report_effects
from alignment.arguments.parsed import Parsed
from alignment.parallel.comms.group import Group
from alignment.runs.output_lock import hold_output
from alignment.runs.stages.parts import Parts, PartWriter
from alignment.runs.stages.stage_arguments import FREE, WorkArguments
from alignment.runs.stages.workers import run_workers
from alignment.telemetry import log
from alignment.telemetry.files import readable_disk_errors
from alignment.telemetry.progress import Progress
from alignment.telemetry.wording import counted

ALONE = Group("world")


class Work(Protocol):
    """What a stage does; rows and models are read when they are first needed."""

    STAGE: str
    """Its name, a key of ``worker.STAGES``."""
    parsed: Parsed

    @property
    def given(self) -> WorkArguments:
        """Its arguments, which have an ``output_file``."""
        ...

    @property
    def units(self) -> Sequence[range]:
        """The numbers of its rows, in order, in ranges that are computed together."""
        ...

    def inputs(self) -> dict[str, Any]:
        """Return contents, beside the arguments, on which the rows depend: models, rows that are read."""
        ...

    def rows(self, units: Iterable[range]) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of each unit, in its order."""
        ...


Finish = Callable[[Iterable[dict[str, Any]]], None]
"""Makes something else of all rows of a stage, in order."""


def run_stage(work: Work, finish: Finish | None = None) -> None:
    """Write the rows of ``work`` to its ``output_file``; one that was interrupted is continued.

    ``finish`` is called before the file appears, so that a file that is there has been finished, too. ArgumentError if
    the file exists, if another run writes it, or if a part was made from other arguments or inputs.
    """
    given, units = work.given, work.units
    for effect in report_effects(work.parsed, device=given.device or "cpu", world_size=1):
        log.warn(str(effect))
    parts = Parts(Path(given.output_file), given.TARGET)
    with _held(parts.folder, given.TARGET):
        kept = {key: value for key, value in work.parsed.as_dict().items() if key not in FREE}
        parts.open({**kept, **work.inputs()}, overwrite=given.overwrite)
        done = parts.done().keys()
        todo = [unit for unit in units if not done >= {*unit}]
        total, left = sum(map(len, units)), sum(map(len, todo))
        if left < total:
            log.info(f"{counted(total - left, 'row')} of {total} were there from before: continued")
        enabled = not given.disable_tqdm
        with Progress(total, work.STAGE, enabled=enabled, start=total - left) as progress:
            if given.num_workers > 1 and len(todo) > 1:
                run_workers(work.STAGE, work.parsed, min(given.num_workers, len(todo)), parts, todo, progress.advance)
            elif todo:
                write_units(work, todo, parts.new_files(1)[0], progress.advance)
        numbers = [number for unit in units for number in unit]
        if finish is not None:
            finish(parts.rows(numbers))
        parts.join(numbers)
    log.info(f"{parts.target}: {counted(total, 'row')}")


def write_units(work: Work, units: Sequence[range], path: Path, advance: Callable[[int], None]) -> None:
    """Write the rows of ``units`` to the part ``path``; call ``advance`` with the number of new rows."""
    with PartWriter(path) as part:
        for unit, rows in zip(units, work.rows(units), strict=True):
            part.append(zip(unit, rows, strict=True))
            advance(len(rows))


def cut(numbers: range, size: int) -> list[range]:
    """Return ``numbers`` in units of ``size``."""
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


@contextmanager
def _held(folder: Path, key: str) -> Iterator[None]:
    """Create and hold the lock of ``folder``; if it is empty at the end, remove it."""
    with readable_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with hold_output(folder, ALONE, key=key) as note:
        if note is not None:
            log.warn(note)
        yield
    with suppress(OSError):
        folder.rmdir()
