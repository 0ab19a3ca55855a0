"""One process of several that answer prompts: the program that ``workers.run_workers`` starts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from alignment.errors import UserError


def main(call: Path, parent: int) -> None:
    """Answer the share that ``call`` describes; stop if ``parent`` ends."""
    from alignment.arguments.parser import parse_arguments
    from alignment.runs.stages.generate import Generation
    from alignment.runs.stages.generate_arguments import GROUPS
    from alignment.telemetry import log

    log.configure(output_dir=None, is_main=True)
    content = json.loads(call.read_text(encoding="utf-8"))
    work = Generation(parse_arguments(GROUPS, content["arguments"]))

    def advance(_: int) -> None:
        if os.getppid() != parent:
            raise UserError("the process that started this one has ended")

    work.answer(content["share"], Path(content["part"]), advance)


if __name__ == "__main__":
    from alignment.device.host import prepare_host

    prepare_host()

    from alignment.runs.entry import run_entry

    run_entry(lambda words: main(Path(words[0]), int(words[1])))
