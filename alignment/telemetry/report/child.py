"""The child process that draws the plots of a run and writes its report; see ``process.writing_report``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from alignment.errors import UserError
from alignment.telemetry.plots import draw_kept_scores
from alignment.telemetry.report.page import write_report


def main(call: str) -> None:
    """Do what ``call``, a JSON object, asks for: its folder, title and summary."""
    given = json.loads(call)
    folder = Path(given["folder"])
    try:
        try:
            draw_kept_scores(folder)
        finally:
            write_report(folder, title=given["title"], summary=given["summary"])
    except UserError as error:
        sys.exit(f"error: {error}")
