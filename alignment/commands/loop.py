"""Rounds of generate, score, select, train and evaluate: ``alignment loop FILE.json [--key value]``.

``alignment loop status FOLDER`` tells how far a loop is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignment.arguments.help import HELP_FLAGS, show_help
from alignment.errors import ArgumentError
from alignment.rounds.reading.loop_arguments import GROUPS


def main(argv: Sequence[str]) -> None:
    """Run a loop, or print its status."""
    if not HELP_FLAGS.isdisjoint(argv):
        show_help(GROUPS, list(argv))
    if not argv:
        raise ArgumentError("which loop? alignment loop FILE.json, or alignment loop status FOLDER (--help: the keys)")

    from alignment.telemetry import log

    log.configure(output_dir=None, is_main=True)
    if argv[0] == "status":
        from alignment.rounds.status import print_status

        if len(argv) != 2:
            raise ArgumentError("alignment loop status FOLDER: give one folder, the output_dir of a loop")
        print_status(Path(argv[1]))
        return

    from alignment.rounds.reading.recipe import read_recipe
    from alignment.rounds.run import run_loop

    run_loop(read_recipe(argv))
