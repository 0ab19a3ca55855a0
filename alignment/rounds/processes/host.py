"""A process that runs one stage after another (generate, score), so that Paddle is loaded once for all of them.

It reads a JSON line for each stage from its input (``stage``, ``arguments``: a file, ``log``: another) and answers with
the exit status that the stage would have had; it ends with its input.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import traceback
from pathlib import Path

from alignment.errors import UserError
from alignment.runs.entry import EXIT_FAULT, EXIT_USER_ERROR
from alignment.runs.stages.worker import STAGES


def main() -> None:
    """Run stages until there are no more."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        for line in sys.stdin:
            call = json.loads(line)
            _redirect(Path(call["log"]))
            status = _run(call["stage"], call["arguments"])
            sys.stdout.flush()
            sys.stderr.flush()
            gc.collect()
            answers.write(f"{status}\n")
            answers.flush()


def _run(stage: str, arguments: str) -> int:
    from alignment.arguments.parser import parse_arguments
    from alignment.runs.stages.stage import run_stage
    from alignment.telemetry import log

    groups, (module, _, name) = STAGES[stage][0], STAGES[stage][1].partition(":")
    try:
        log.configure(output_dir=None, is_main=True)
        parsed = parse_arguments(importlib.import_module(groups).GROUPS, [arguments])
        run_stage(getattr(importlib.import_module(module), name)(parsed))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_USER_ERROR
    except Exception:
        traceback.print_exc()
        return EXIT_FAULT
    return 0


def _redirect(path: Path) -> None:
    """Send what this process prints from now on to ``path``."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


if __name__ == "__main__":
    from alignment.device.host import prepare_host

    prepare_host()
    main()
