"""Every key of every trainer as Markdown: ``python -m alignment.trainers.reference``."""

from __future__ import annotations

import sys

from alignment.arguments.reference import render_reference
from alignment.trainers.registered import TRAINERS


def key_reference() -> str:
    """Return the tables of all registered trainers."""
    return render_reference((TRAINERS[name].title, TRAINERS[name].groups) for name in TRAINERS)


if __name__ == "__main__":
    sys.stdout.write(key_reference())
