"""A step of a loop: what it is made from, what it makes, and how it is done."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.rounds.processes.children import Children
from alignment.telemetry.files import replace_file

Work = Callable[[bool], None]
"""Does a step; its argument says whether an earlier start began it from the same things."""


@dataclass(frozen=True, kw_only=True)
class LoopStep:
    """One step of one round."""

    round_number: int
    """0: before the first training."""
    stage: str
    """Its name within the round."""
    keys: Mapping[str, Any] = field(default_factory=dict)
    """The keys that decide about its result."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """The files and folders that decide about it, by their names in messages."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Checksums of what else decides about it, by name."""
    outputs: Mapping[str, Path]
    work: Work

    @property
    def name(self) -> str:
        """Its name in the state and in messages."""
        return f"round-{self.round_number}/{self.stage}"


@dataclass(frozen=True)
class Command:
    """Work that is done by another process, with a file of arguments and a log."""

    children: Children
    logs: Path
    step: str
    stage: str | None
    """A stage that the host runs; None: a program of its own."""
    arguments: Mapping[str, Any]
    words: Sequence[str] = ()
    """The module and words of ``python -m`` of a program, before the file of arguments."""
    resumed: Mapping[str, Any] = field(default_factory=dict)
    """What changes in ``arguments`` where an earlier start began it."""

    def __call__(self, continues: bool) -> None:
        """Run it."""
        name = self.step.partition("/")[2]
        path, log_file = self.logs / f"{name}.json", self.logs / f"{name}.log"
        replace_file(path, json.dumps({**self.arguments, **(self.resumed if continues else {})}, indent=1))
        if self.stage is not None:
            self.children.run_stage(self.stage, path, step=self.step, log_file=log_file)
        else:
            self.children.run_program([*self.words, str(path)], step=self.step, log_file=log_file)


def trainer_words(name: str, door: str | None, num_processes: int, logs: Path) -> list[str]:
    """Return the words of ``python -m`` that train in one process, or in several under Paddle's launcher."""
    if num_processes == 1:
        return ["alignment", "train", name]
    assert door is not None
    script = Path(sys.modules["alignment"].__file__ or "").parents[1] / door
    return ["paddle.distributed.launch", "--nproc_per_node", str(num_processes), "--log_dir", str(logs), str(script)]
