"""The end of a run: a last evaluation, the models, the report, and where they are."""

from __future__ import annotations

from alignment.loops.launch import Launch
from alignment.loops.run_state import RunState
from alignment.loops.session import Session
from alignment.telemetry import log
from alignment.telemetry.jsonl import read_json_lines
from alignment.telemetry.report import write_report


def finish_run(start: Launch, session: Session, state: RunState, *, title: str, kept: str) -> None:
    """Evaluate if asked and not just done, export the models, write the report.

    ``kept`` names the evaluation metric that the report's first card shows before and after.
    """
    training = start.parsed.training
    is_evaluated = training.do_train and session.counters.evaluated_at == session.counters.updates
    if training.evaluates and not is_evaluated:
        session.evaluate()
    session.writers.close()
    if training.do_train:
        for name, folder in state.export(best=training.load_best_model_at_end).items():
            log.info(f"{name}: {folder}")
    report = write_report(start.output_dir, title=f"{title}: {start.run_name}", summary=_summary(start, session, kept))
    log.info(f"report: {report}")


def _summary(start: Launch, session: Session, kept: str) -> dict:
    values = [record[kept] for record in read_json_lines(start.output_dir / "metrics.jsonl") if kept in record]
    summary: dict = {"updates": session.counters.updates}
    if values:
        summary[kept] = (values[0], values[-1]) if len(values) > 1 else values[-1]
    if session.counters.best_step is not None:
        summary["best at update"] = session.counters.best_step
    return summary
