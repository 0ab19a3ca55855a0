"""Replay recorded runs of the shipped task through the alarm: hits on runs that hack, false alarms on the others.

Whether a run hacked is said in ``hacked.py``, here of the sampled answers of its evaluations. This reads metrics.jsonl
and samples.jsonl of runs with ``--logging_steps 1`` and an evaluation every few updates. ``--record`` makes such runs:
eleven recipes (``reward_hacking_runs.py``) for each seed; finished ones are kept.

    python benchmarks/reward_hacking.py --record FOLDER --seeds 1 2 3 --output FILE.md
    python benchmarks/reward_hacking.py RUN... --output FILE.md
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))

import numpy as np  # noqa: E402
from hacked import Evaluation, count_told, ended_low, is_hacked  # noqa: E402
from reward_hacking_runs import RECIPES, record  # noqa: E402

from alignment.data.sources.packing import true_score  # noqa: E402
from alignment.loops.hacking.alarm import HackingAlarm  # noqa: E402
from alignment.metrics import Metric  # noqa: E402
from alignment.telemetry import log  # noqa: E402
from alignment.telemetry.jsonl import read_json_lines  # noqa: E402


class Replay(NamedTuple):
    """One run through the alarm."""

    name: str
    start: float
    best: float
    last: float
    alone: dict[str, int]
    """Kinds and updates told without a second judge."""
    judged: dict[str, int]
    """Those told with the true score as the second judge."""
    hacked: bool
    was_hacked: bool
    """By the criterion until 2026-11-30."""


def replay(folder: Path) -> Replay:
    """Return what the alarm tells of the run in ``folder``."""
    samples: dict[int, list[dict]] = {}
    for row in read_json_lines(folder / "samples.jsonl"):
        truth = true_score(row["prompt"], row["response"])
        samples.setdefault(row["step"], []).append({**row, "truth": truth})
    curve = [Evaluation(_mean(rows, "score"), [row["truth"] for row in rows]) for rows in samples.values()]
    scores = {step: _mean(rows, "truth") for step, rows in samples.items()}
    told = []
    for judges in ((), ("truth",)):
        alarm = HackingAlarm(judges=judges)
        for row in read_json_lines(folder / "metrics.jsonl"):
            step = row["step"]
            if "eval/reward" in row:
                spread = float(np.std([row["truth"] for row in samples[step]]))
                evaluation = {**row, "eval/truth": scores[step], "eval/truth_std": spread}
                alarm.observe_evaluation(evaluation, samples[step], step=step)
            else:
                numbers = {name: Metric(value) for name, value in row.items() if isinstance(value, float)}
                alarm.observe(numbers, step=step, samples=tuple)
        told.append({finding.kind: finding.step for finding in alarm.findings})
    values = list(scores.values())
    return Replay(folder.name, values[0], max(values), values[-1], *told, is_hacked([curve]), ended_low(values))


def _mean(rows: list[dict], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def table(runs: list[Replay]) -> str:
    """Return the results in Markdown, with the counts first."""
    lines = []
    for what, attribute in (("without a second judge", "alone"), ("with the true score as second judge", "judged")):
        told = [bool(getattr(run, attribute)) for run in runs]
        now, before = (count_told(told, [getattr(run, name) for run in runs]) for name in ("hacked", "was_hacked"))
        lines.append(f"- {what}: {now} (by the criterion until 2026-11-30: {before})")
    lines += ["", "| run | true score: start, best, last | hacked | told alone | told with the judge |"]
    lines += ["|---|---|---|---|---|"]
    for run in sorted(runs, key=lambda one: (not one.hacked, one.name)):
        alone, judged = (", ".join(f"{k} {s}" for k, s in told.items()) or "-" for told in (run.alone, run.judged))
        scores = f"{run.start:.3f}, {run.best:.3f}, {run.last:.3f}"
        lines.append(f"| {run.name} | {scores} | {'yes' if run.hacked else 'no'} | {alone} | {judged} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Replay the runs and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--record", type=Path, help="folder in which to make the runs first")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    log.configure(output_dir=None, is_main=False)
    made = record(options.record, options.seeds, options.recipes) if options.record else []
    replays = [replay(folder) for folder in [*options.runs, *made]]
    print(text := table(replays))
    if options.output:
        options.output.write_text(text, encoding="utf-8")
        rows = json.dumps([run._asdict() for run in replays], indent=1)
        options.output.with_suffix(".json").write_text(rows, encoding="utf-8")


if __name__ == "__main__":
    main()
