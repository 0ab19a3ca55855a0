"""Measure a model, a reward or two policies: ``alignment eval FILE.json [--key value ...]``."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.arguments.parser import parse_arguments
from alignment.runs.evaluations.eval_arguments import GROUPS


def main(argv: Sequence[str]) -> None:
    """Evaluate from the command line."""
    parsed = parse_arguments(GROUPS, argv)

    from alignment.runs.evaluations.evaluate import evaluate
    from alignment.telemetry import log

    log.configure(output_dir=None, is_main=True)
    print(evaluate(parsed) / "evaluation.html")
