"""Score answers with any reward sources: ``alignment score FILE.json [--key value ...]``."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.arguments.parser import parse_arguments
from alignment.runs.stages.score_arguments import GROUPS


def main(argv: Sequence[str]) -> None:
    """Score from the command line."""
    parsed = parse_arguments(GROUPS, argv)

    from alignment.runs.stages.score import Scoring
    from alignment.runs.stages.stage import run_stage
    from alignment.telemetry import log

    log.configure(output_dir=None, is_main=True)
    run_stage(Scoring(parsed))
