"""Answer prompts with K answers each: ``alignment generate FILE.json [--key value ...]``."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.arguments.parser import parse_arguments
from alignment.runs.stages.generate_arguments import GROUPS


def main(argv: Sequence[str]) -> None:
    """Generate from the command line."""
    parsed = parse_arguments(GROUPS, argv)

    from alignment.runs.stages.generate import Generation
    from alignment.runs.stages.stage import run_stage
    from alignment.telemetry import log

    log.configure(output_dir=None, is_main=True)
    run_stage(Generation(parsed))
