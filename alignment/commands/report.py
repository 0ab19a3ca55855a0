"""Write the report of a run, or one that compares runs: ``alignment report RUN [RUN ...] [--output FILE]``.

RUN is the output folder of a run, finished or not. For one run its ``report.html`` is rewritten. For several, overlaid
curves and the arguments that differ are written to ``comparison.html`` in the current folder.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alignment.arguments.command_line import ToolParser
from alignment.errors import ArgumentError
from alignment.telemetry.plots import draw_kept_scores
from alignment.telemetry.report.metric_rows import evaluation_summary
from alignment.telemetry.report.page import refuse_foreign_file, title_of, write_comparison, write_report
from alignment.telemetry.report.run_files import RunFiles, read_run_files


def main(argv: Sequence[str]) -> None:
    """Write the report and print its path."""
    print(_write(_parse(argv)))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = ToolParser(prog="alignment report", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a run")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write")
    return parser.parse_args(argv)


def _write(options: argparse.Namespace) -> Path:
    runs = _read(options.runs)
    if len(runs) > 1:
        path = options.output or Path("comparison.html")
        refuse_foreign_file(path)
        return write_comparison(runs, path)
    (folder,), (run,) = options.runs, runs.values()
    path = options.output or folder / "report.html"
    refuse_foreign_file(path)
    summary = {"updates": run.steps[1] if run.steps else 0} | evaluation_summary(run.series)
    page = {"title": title_of(folder), "summary": summary, "path": path}
    if options.output is None:
        draw_kept_scores(folder)
        return write_report(folder, **page)
    with tempfile.TemporaryDirectory() as plots:  # nothing is written to the folder of the run
        draw_kept_scores(folder, into=Path(plots))
        return write_report(folder, **page, newer_plots=Path(plots))


def _read(folders: Sequence[Path]) -> dict[str, RunFiles]:
    """Return the content of each run by a unique label."""
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if not (place / "metrics.jsonl").is_file():
            raise ArgumentError(f"{folder} is not the output folder of a run: it has no metrics.jsonl")
        if places.count(place) > 1:
            raise ArgumentError(f"{folder} is given twice")
    return {label: read_run_files(place) for label, place in zip(name_apart(places), places, strict=True)}


def name_apart(places: Sequence[Path]) -> list[str]:
    """Return the shortest suffixes of the paths that are all different."""
    depth = 1
    while len({place.parts[-depth:] for place in places}) < len(places):
        depth += 1
    return [str(Path(*place.parts[-depth:])) for place in places]
