"""Finish a run: last evaluation, exported models, report."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from alignment.loops.session import Session
from alignment.parallel.roles import RoleWork, share_work
from alignment.runs.launch import Launch
from alignment.runs.state import RunState
from alignment.telemetry import log
from alignment.telemetry.jsonl import read_json_lines
from alignment.telemetry.report.process import writing_report
from alignment.telemetry.report.readiness import FILE as READINESS_FILE


def finish_run(launch: Launch, session: Session, state: RunState, *, title: str, cards: Sequence[str]) -> None:
    """Evaluate if asked and not just done, then export the models while a child process writes the report.

    ``cards`` names the evaluation metrics at the top of the report, shown before and after training.
    """
    training = launch.parsed.training
    with launch.signals.deferred("the last evaluation and the models"):
        is_evaluated = training.do_train and session.counters.evaluated_at == session.counters.updates
        if training.evaluates and not is_evaluated:
            session.evaluate()
        session.writers.close()
        with _reporting(launch, session, title=title, cards=cards):
            if training.do_train:
                _export(launch, session, state)
            if launch.topology.is_main and training.evaluates:
                _tell_readiness(launch)


def _reporting(
    launch: Launch, session: Session, *, title: str, cards: Sequence[str]
) -> contextlib.AbstractContextManager[None]:
    """Write the report while the body runs, in the main process."""
    if not launch.topology.is_main:
        return contextlib.nullcontext()
    summary = _summary(launch, session, cards)
    return writing_report(launch.output_dir, title=f"{title}: {launch.run_name}", summary=summary)


def _export(launch: Launch, session: Session, state: RunState) -> None:
    session.flat_rewards.finish()
    best = launch.parsed.training.load_best_model_at_end or session.is_stopped_at_best
    _check_models(launch, session, state, best=best)
    for name, folder in state.export(best=best).items():
        log.info(f"{name}: {folder}")
    if session.is_stopped_at_best:
        _tell_stop(session)


def _tell_stop(session: Session) -> None:
    """Say why the run ended early and which weights it exported."""
    counters, finding = session.counters, session.alarm.findings[0]
    if counters.best_step is None:
        what = "no evaluation came before, so the exported weights are the last ones"
    else:
        metric = session.hooks.best.metric
        start = "" if counters.best_step else ", with which training started"
        what = (
            f"the exported weights are those of update {counters.best_step}{start}, the best by {metric} "
            f"({counters.best_value:.4g})"
        )
    log.info(
        f"on_reward_hacking=stop_at_best: the run ended after update {counters.updates} of {session.total_updates} "
        f"({finding.kind}: {finding.text}); {what}"
    )


def _tell_readiness(launch: Launch) -> None:
    """Log whether the last evaluation found a reward model ready for PPO."""
    path = launch.output_dir / READINESS_FILE
    if path.is_file():
        log.info(json.loads(path.read_text(encoding="utf-8"))["line"])


def _check_models(launch: Launch, session: Session, state: RunState, *, best: bool) -> None:
    """Warn of models that stopped learning; refuse to export one that the last update made unusable."""
    warning = session.liveness.describe()
    if warning is not None:
        log.warn(warning)
    if not (best and state.counters.best_step is not None):
        learners = state.learners.values()
        share_work([RoleWork(launch.ranks_of(learner.name), learner.check_outputs) for learner in learners])


def _summary(launch: Launch, session: Session, cards: Sequence[str]) -> dict[str, Any]:
    records = list(read_json_lines(launch.output_dir / "metrics.jsonl"))
    summary: dict[str, Any] = {"updates": session.counters.updates}
    for name in cards:
        values = [record[name] for record in records if name in record]
        if values:
            summary[name] = (values[0], values[-1]) if len(values) > 1 else values[-1]
    if session.counters.best_step is not None:
        summary["best at update"] = session.counters.best_step
    return summary
