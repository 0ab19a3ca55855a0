"""Choose training rows among scored answers: ``alignment select FILE.json [--key value ...]``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignment.arguments.parser import parse_arguments
from alignment.errors import ArgumentError
from alignment.runs.stages.select import select_file
from alignment.runs.stages.select_arguments import GROUPS, SelectArguments
from alignment.telemetry import log


def main(argv: Sequence[str]) -> None:
    """Select from the command line and print the account."""
    log.configure(output_dir=None, is_main=True)
    parsed = parse_arguments(GROUPS, argv)
    given: SelectArguments = parsed.select
    source, target = Path(given.scored_file), Path(given.output_file)
    if target.exists() and (not given.overwrite or target.samefile(source)):
        same = target.samefile(source)
        raise ArgumentError(f"output_file: {target} {'is scored_file itself' if same else 'exists: --overwrite'}")
    select_file(source, target, parsed.options)
