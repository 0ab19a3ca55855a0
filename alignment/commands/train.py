"""Train in one process: ``alignment train TRAINER FILE.json [--key value ...]``; paddle's launcher starts several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignment.errors import ArgumentError
from alignment.telemetry import log
from alignment.telemetry.jsonl import read_json_lines
from alignment.trainers.registered import TRAINERS
from alignment.trainers.trainer import Trainer


class Finished(NamedTuple):
    """The results of a run."""

    folder: Path
    """Its ``output_dir``, with the models in ``policy/``, ``reward/`` and ``value/``."""
    metrics: list[dict[str, Any]]
    """The records of ``metrics.jsonl``."""


def main(argv: Sequence[str]) -> int | None:
    """Run a trainer and exit; without a name list the trainers."""
    if argv and argv[0] in ("-h", "--help"):
        print(describe())
        return 0
    if not argv:
        raise ArgumentError(f"which trainer? ({', '.join(TRAINERS)}); alignment train --help lists them")
    trainer = _find(argv[0])

    from alignment.device.host import prepare_host

    host = prepare_host()  # before the first import of Paddle, which reads these settings once

    from alignment.runs.entry import GO_ON, run_entry

    run_entry(lambda parsed: trainer.train(parsed, host=host), go_on=GO_ON, read=lambda _: trainer.parse(argv[1:]))


def train_here(name: str, arguments: Mapping[str, Any]) -> Finished:
    """Run the trainer ``name`` in this process; see ``alignment.train``."""
    trainer = _find(name)
    if not isinstance(arguments, Mapping):
        raise ArgumentError(f"arguments: expected a dict of keys and values, got {arguments!r:.80}")

    from alignment.device.host import prepare_host, unheeded_settings

    late, host = unheeded_settings(), prepare_host()  # before the parser, which may import Paddle
    if late:
        log.warn(
            f"Paddle was imported before alignment.train, which therefore sets {', '.join(late)} too late: training "
            "is slower, and its numbers differ from those of a script's run in the last digits. For the same numbers "
            "start Python again and call alignment.train before Paddle is imported, or set these variables first"
        )
    parsed = trainer.parse(arguments)
    trainer.train(parsed, host=host)
    folder = Path(parsed.training.output_dir)
    return Finished(folder, list(read_json_lines(folder / "metrics.jsonl")))


def _find(name: str) -> Trainer:
    """Return the trainer; the error for the name of an algorithm says how to choose that."""
    if name not in TRAINERS:
        from alignment.algorithms.on_policy.registered import ALGORITHMS

        if name in ALGORITHMS:
            raise ArgumentError(f"{name} is an algorithm of the trainer ppo: alignment train ppo, rl_algorithm={name}")
    return TRAINERS[name]


def describe() -> str:
    """Return the text of ``alignment train --help``."""
    width = max(map(len, TRAINERS))
    rows = [f"  {name:<{width}}  {TRAINERS[name].title}" for name in TRAINERS]
    script = TRAINERS[next(iter(TRAINERS))].door
    return "\n".join(
        [
            "usage: alignment train TRAINER FILE.json [--key value ...]",
            "",
            *rows,
            "",
            "alignment train TRAINER --help lists the keys, --help KEY explains one.",
            f"Several processes: python -m paddle.distributed.launch {script} FILE.json (each trainer has its script).",
        ]
    )
