"""Write self-contained HTML pages: ``report.html`` of a run, and a comparison of several runs.

Pages work offline. They include uPlot (``assets/uplot``, MIT) for the charts; without scripts the tables, legends and
samples still show the numbers. All user text is escaped, and the page's content security policy allows only its own two
scripts.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from alignment.errors import UserError
from alignment.telemetry.files import replace_file
from alignment.telemetry.report.charts import ChartGroup, build_groups
from alignment.telemetry.report.explanations import HACKING, REWARD
from alignment.telemetry.report.metric_rows import metric_rows, summary_cards
from alignment.telemetry.report.run_files import RunFiles, read_plots, read_run_files
from alignment.telemetry.report.sections import (
    argument_differences,
    argument_rows,
    comparison,
    ledger_rows,
    reward_source,
)
from alignment.telemetry.report.tables import ReportTable
from alignment.telemetry.report.verdict import readable_findings, verdict_cards

GENERATOR = '<meta name="generator" content="alignment report">'
SCRIPTS = ("uplot/uPlot.iife.min.js", "charts.js")
STYLES = ("uplot/uPlot.min.css", "page.css")
LEADING = (REWARD, HACKING)
"""Groups shown before the samples."""


def write_report(
    output_dir: Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    path: Path | None = None,
    tables: Sequence[ReportTable] = (),
    newer_plots: Path | None = None,
) -> Path:
    """Write the page of the run in ``output_dir`` to ``path`` (None: its ``report.html``) and return the path.

    ``summary`` maps a label to a number or text, or to a pair (before, after), which is shown with its change. The page
    is built from metrics.jsonl, samples.jsonl, hacking.json, ledger.json, arguments.json, readiness.json and
    plots/*.png; each may be missing. ``tables`` follow the summary. ``newer_plots`` is a folder of PNGs that replace
    those of the same names.
    """
    output_dir = Path(output_dir)
    run = read_run_files(output_dir)
    groups = build_groups({"": run.series})
    page = render_page(
        "run.html.jinja",
        groups,
        title=title,
        folder=output_dir.resolve().name,
        steps=run.steps,
        cards=[*verdict_cards(run.series, run.findings), *summary_cards(summary)],
        findings=readable_findings(run.findings),
        tables=tables,
        rows=metric_rows({"": run.series}),
        leading=[group for group in groups if group.title in LEADING],
        groups=[group for group in groups if group.title not in LEADING],
        comparison=comparison(run.samples),
        plots=run.plots | ({} if newer_plots is None else read_plots(newer_plots)),
        readiness=run.readiness,
        ledger=ledger_rows(run.ledger),
        arguments=argument_rows(run.arguments),
    )
    path = path or output_dir / "report.html"
    replace_file(path, page)
    return path


def write_comparison(runs: Mapping[str, RunFiles], path: Path) -> Path:
    """Write the page that compares two or more ``runs`` (by label) to ``path`` and return the path."""
    series = {label: run.series for label, run in runs.items()}
    groups = build_groups(series)
    page = render_page(
        "comparison.html.jinja",
        groups,
        title=f"Comparison of {len(runs)} runs",
        labels=list(runs),
        steps=[run.steps for run in runs.values()],
        rows=metric_rows(series, [reward_source(run.arguments) for run in runs.values()]),
        groups=groups,
        differences=argument_differences([run.arguments for run in runs.values()]),
    )
    replace_file(path, page)
    return path


def title_of(output_dir: Path) -> str:
    """Return the title that the run gave the report in ``output_dir``; the folder's name if there is no report."""
    path = output_dir / "report.html"
    page = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    title = re.search(r"<title>(.*?)</title>", page, re.DOTALL) if GENERATOR in page else None
    return html.unescape(title[1]) if title else output_dir.resolve().name


def refuse_foreign_file(path: Path) -> None:
    """Raise UserError if ``path`` is a folder, or a file that is not a report and would be overwritten."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file for the report")
    if path.exists() and GENERATOR not in path.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{path} exists and is not a report: it is not replaced")


def render_page(template: str, all_groups: Sequence[ChartGroup], **values: Any) -> str:
    """Return the page that ``template`` makes of ``values``, with the charts of ``all_groups``."""
    scripts, styles = ([Markup(_read(name)) for name in names] for names in (SCRIPTS, STYLES))
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        **values,
        generator=Markup(GENERATOR),
        scripts=scripts,
        licence=Markup(_read("uplot/LICENSE")),
        styles=styles,
        hashes=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        chart_data={chart.id: chart.data for group in all_groups for chart in group.charts},
    )


def _digest(text: str) -> str:
    """Return the SHA-256 of ``text`` in base64, for a content security policy."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _read(name: str) -> str:
    return (
        resources.files("alignment.telemetry.report").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")
    )
