"""One self-contained ``report.html`` of a run: key numbers, curves, samples, data ledger, arguments."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from alignment.telemetry.files import replace_file
from alignment.telemetry.report_sections import (
    argument_rows,
    comparison,
    hacking_charts,
    ledger_rows,
    metric_panels,
    summary_cards,
)
from alignment.telemetry.run_files import read_run_files


def write_report(output_dir: Path, *, title: str, summary: Mapping[str, Any]) -> Path:
    """Write ``output_dir/report.html`` from the files of that folder and return its path.

    ``summary`` maps a label to a number or text, or to a pair (before, after), which is shown with its change.
    Read: metrics.jsonl, samples.jsonl, ledger.json, arguments.json, plots/*.png; each may be missing.
    The page needs no network and no script, and every text of the user is escaped.
    """
    output_dir = Path(output_dir)
    run = read_run_files(output_dir)
    page = _template().render(
        title=title,
        folder=output_dir.resolve().name,
        steps=run.steps,
        cards=summary_cards(summary),
        hacking=hacking_charts(run.series),
        comparison=comparison(run.samples),
        panels=metric_panels(run.series, run.non_finite),
        plots=run.plots,
        ledger=ledger_rows(run.ledger),
        arguments=argument_rows(run.arguments),
    )
    path = output_dir / "report.html"
    replace_file(path, page)
    return path


def _template() -> jinja2.Template:
    source = resources.files("alignment.telemetry").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(source)
