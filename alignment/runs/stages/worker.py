"""One process of several that run a stage: the program that ``workers.run_workers`` starts."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

from alignment.errors import UserError

STAGES = {
    "generate": ("alignment.runs.stages.generate_arguments", "alignment.runs.stages.generate:Generation"),
    "score": ("alignment.runs.stages.score_arguments", "alignment.runs.stages.score:Scoring"),
    "eval": ("alignment.runs.evaluations.eval_arguments", "alignment.runs.evaluations.works:open_work"),
}
"""Stage to the module with its ``GROUPS``, and ``module:name`` of what makes its work of parsed arguments."""


def main(call: Path, parent: int) -> None:
    """Compute the units that ``call`` describes; stop if ``parent`` ends."""
    from alignment.arguments.parser import parse_arguments
    from alignment.runs.stages.stage import write_units
    from alignment.telemetry import log

    log.configure(output_dir=None, is_main=True)
    content = json.loads(call.read_text(encoding="utf-8"))
    arguments, (module, _, name) = STAGES[content["stage"]][0], STAGES[content["stage"]][1].partition(":")
    parsed = parse_arguments(importlib.import_module(arguments).GROUPS, content["arguments"])
    work = getattr(importlib.import_module(module), name)(parsed)

    def advance(_: int) -> None:
        if os.getppid() != parent:
            raise UserError("the process that started this one has ended")

    write_units(work, [range(*bounds) for bounds in content["units"]], Path(content["part"]), advance)


if __name__ == "__main__":
    from alignment.device.host import prepare_host

    prepare_host()

    from alignment.runs.entry import run_entry

    run_entry(lambda words: main(Path(words[0]), int(words[1])))
