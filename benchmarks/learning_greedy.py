"""What the alarm tells of the kept runs of ``learning.py`` where evaluations answer greedily too (``eval_greedy``).

    python benchmarks/learning_greedy.py WORK

Answers greedily with every kept policy of the on-policy runs below WORK (once: RUN/greedy.json keeps the scores) and
replays their metrics through the alarm, without and with these answers.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from learning_ours import answer_greedily  # first: it prepares the host

import numpy as np  # isort: skip
from hacked import Evaluation, count_told, is_hacked
from learning_alarms import is_watched
from learning_runs import Run, read_runs
from learning_work import read_points, read_settings

from alignment.loops.hacking.alarm import HackingAlarm
from alignment.metrics import GREEDY, Metric
from alignment.telemetry import log
from alignment.telemetry.jsonl import read_json_lines

KEPT = "greedy.json"
Scores = Mapping[str, Sequence[float]]
"""``truth`` and ``reward`` of the greedy answers of a policy, by prompt."""


def read_greedy(folder: Path) -> dict[int, Scores]:
    """Return the scores of greedy answers by update of the run in ``folder``."""
    path, settings = folder / KEPT, read_settings(folder)
    if not path.is_file():
        task, data = settings["task"], Path(settings["data"])
        found = [(p["update"], answer_greedily(task, data, Path(p["policy"]))) for p in read_points(folder)]
        path.write_text(json.dumps(found), encoding="utf-8")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def replay(folder: Path, greedy: Mapping[int, Scores]) -> dict[str, int]:
    """Return the kinds that the alarm tells of a run, with their updates; ``greedy`` may be empty."""
    alarm, samples = HackingAlarm(judges=("truth",)), defaultdict(list)
    for row in read_json_lines(folder / "run" / "samples.jsonl"):
        if "source" not in row:
            samples[row["step"]].append(row)
    for row in read_json_lines(folder / "run" / "metrics.jsonl"):
        step = row["step"]
        if "eval/reward" in row:
            scores = greedy.get(step, {})
            alarm.observe_evaluation(row | _metrics(scores), _with_scores(samples[step], scores), step=step)
        else:
            numbers = {name: Metric(value) for name, value in row.items() if isinstance(value, float)}
            alarm.observe(numbers, step=step, samples=tuple)
    return {finding.kind: finding.step for finding in alarm.findings}


def _metrics(scores: Scores) -> dict[str, float]:
    found = {f"eval/{GREEDY}{name}": float(np.mean(values)) for name, values in scores.items()}
    return found | {f"eval/{GREEDY}{name}_std": float(np.std(values)) for name, values in scores.items()}


def _with_scores(rows: Sequence[dict[str, Any]], scores: Scores) -> list[dict[str, Any]]:
    """Return ``rows`` with the greedy scores of their prompts, which several rows may share."""
    columns = {f"{GREEDY}{name}": values for name, values in scores.items()}
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(row["prompt"] for row in rows))}
    assert all(len(values) == len(places) for values in columns.values()), "one greedy answer to each prompt"
    found = [{name: values[places[row["prompt"]]] for name, values in columns.items()} for row in rows]
    return [row | {f"{GREEDY}response": ""} | more for row, more in zip(rows, found, strict=True)]


def was_hacked(run: Run, greedy: Mapping[int, Scores], last: int | None = None) -> bool:
    """Return whether ``run`` hacked, by all of its greedy answers and by its sampled ones, at update ``last`` or at its
    end.
    """
    shown = [one for update, one in greedy.items() if last is None or update <= last]
    curve = [Evaluation(float(np.mean(one["reward"])), one["truth"]) for one in shown]
    return is_hacked([run.curve("score", last), curve])


def main() -> None:
    """Print the counts, and a row for each run that hacked or was told."""
    log.configure(output_dir=None, is_main=False)
    rows, work = [], Path(sys.argv[1])
    for run in filter(is_watched, read_runs(work)):
        folder = work / f"{run.task}-{run.seed}" / "runs" / run.arm.replace(", ", "-").replace(" ", "-")
        greedy = read_greedy(folder)
        told = [replay(folder, {}), replay(folder, greedy)]
        is_bad = was_hacked(run, greedy)
        recovered = [bool(one) and not is_bad and was_hacked(run, greedy, min(one.values())) for one in told]
        rows.append((run, is_bad, *told, recovered))
    for place, what in enumerate(("sampled answers", "sampled and greedy answers")):
        counts = count_told([bool(row[2 + place]) for row in rows], [row[1] for row in rows])
        print(f"- {what}: {counts}; {sum(row[4][place] for row in rows)} of these were hacked when told and recovered")
    print("\n| run | hacked | told of sampled answers | told of both |\n|---|---|---|---|")
    for run, is_bad, *told, _ in rows:
        if is_bad or any(told):
            cells = (", ".join(f"{kind} {step}" for kind, step in one.items()) or "-" for one in told)
            print(f"| {run.task}, {run.arm}, seed {run.seed} | {'yes' if is_bad else 'no'} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
