"""Run an evaluation, and write its results: JSON, tables on the console, and a page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alignment.arguments.parsed import Parsed
from alignment.runs.evaluations.reward_accuracy import RewardAccuracyWork
from alignment.runs.evaluations.summary import Summary
from alignment.runs.evaluations.works import open_work
from alignment.runs.stages.stage import run_stage
from alignment.telemetry.files import replace_file
from alignment.telemetry.report.evaluation_page import EvaluationPage, write_evaluation
from alignment.telemetry.tables import print_table

RESULTS, PAGE = "results.json", "evaluation.html"


def evaluate(parsed: Parsed) -> Path:
    """Evaluate what ``parsed`` names, or continue, and return the output folder.

    UserError before anything is computed for what cannot be measured.
    """
    work, folder = open_work(parsed), Path(parsed.eval.output_dir)
    work.check()

    def finish(rows: Iterable[dict[str, Any]]) -> None:
        every = [*rows]
        summary = work.summarize(every)
        write_results(parsed, summary, folder)
        if isinstance(work, RewardAccuracyWork):
            work.record(every)
        print_summary(summary, parsed.eval.confidence)

    run_stage(work, finish)
    return folder


def write_results(parsed: Parsed, summary: Summary, folder: Path) -> None:
    """Write results.json, arguments.json and the page."""
    given = parsed.eval
    content = {"task": given.task, "title": summary.title, "confidence": given.confidence, **summary.as_dict()}
    replace_file(folder / RESULTS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    arguments = parsed.save(folder)
    page = EvaluationPage(
        title=summary.title,
        tables=[summary.metric_table(given.confidence), *summary.tables],
        notes=summary.notes,
        samples=summary.samples,
        counts=summary.counts,
        ledgers=summary.ledgers,
        arguments=json.loads(arguments.read_text(encoding="utf-8")),
    )
    write_evaluation(folder / PAGE, page)


def print_summary(summary: Summary, confidence: float) -> None:
    """Print the tables, and the rows that were left out or used with a reservation."""
    for table in (summary.metric_table(confidence), *summary.tables):
        print_table(table.title, table.columns, table.rows)
    for name, count in summary.counts.items():
        if count:
            print(f"{name}: {count}")
