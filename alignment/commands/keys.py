"""Print every key of every trainer as Markdown: ``alignment keys``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alignment.arguments.command_line import ToolParser
from alignment.arguments.reference import render_reference
from alignment.device.host import prepare_host
from alignment.trainers.registered import TRAINERS


def key_reference() -> str:
    """Return the tables of all registered trainers."""
    return render_reference((TRAINERS[name].title, TRAINERS[name].groups) for name in TRAINERS)


def main(argv: Sequence[str]) -> None:
    """Print the tables."""
    prepare_host()  # the groups of some trainers import Paddle
    ToolParser(prog="alignment keys", description=__doc__).parse_args(argv)
    sys.stdout.write(key_reference())
