"""Time greedy rollouts: our engines, torch, ctranslate2, llama.cpp and paddlenlp on the same weights and prompts.

    python benchmarks/rollout_environments.py FOLDER         once: an environment for each peer
    python benchmarks/rollout.py --peers FOLDER [--models 25m 110m] [--batches 1 8 32] [--threads 1 2] [--longtail]

Each peer is a process of its own; all have the same threads, MKL path and allocator settings. They take turns, one
rollout at a time: first one token for each prompt, which is the prefill, then all tokens. A peer that is not there is
reported as absent.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))

from rollout_report import Record, Workload, describe, render, write  # noqa: E402
from rollout_team import Team  # noqa: E402
from rollout_work import DEFAULT_SIDES, MAX_TOKENS, MODELS, NUM_PROMPTS, SIDES, longtail_lengths  # noqa: E402

from alignment.device.host import prepare_host  # noqa: E402

SLOTS = 32
"""Rows at a time in the long-tailed workload."""
PAUSE = 0.3
"""Seconds between turns with several threads: those of the last side may still be spinning."""


class Task(NamedTuple):
    """What every side is asked to do in one workload."""

    title: str
    limits: list[int]
    """Tokens wanted of each row."""
    prefill: bool
    """Whether the prefill is timed alone as well."""


def main() -> int:
    """Measure, print and, when asked, write; 1 when sides that compute in float32 do not agree or none ran."""
    options = parse_options()
    host = prepare_host()
    workloads, versions = [], {}
    for model in options.models:
        with tempfile.TemporaryDirectory(prefix="rollout-") as folder:
            subprocess.run([sys.executable, str(HERE / "rollout_weights.py"), model, folder], check=True)
            for threads in options.threads:
                workloads += measure(model, threads, folder, options=options, versions=versions)
    about = describe(vars(options), host, versions)
    print(render(workloads, about))
    if options.write:
        print(f"wrote {write(workloads, about, folder=options.results, name=options.name)} and .json")
    return 0 if all(workload.records and workload.agrees for workload in workloads) else 1


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder that rollout_environments.py filled")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["25m", "110m"])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=DEFAULT_SIDES)
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--longtail", action="store_true", help=f"also {NUM_PROMPTS} answers of log-normal lengths")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3, help="measured turns of each side, after a short warm-up")
    parser.add_argument("--write", action="store_true", help="write a dated markdown and JSON file")
    parser.add_argument("--name", default="rollout", help="the files are called <date>_<name>")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for --write")
    options = parser.parse_args()
    if min(options.repeats, options.prompt_tokens, *options.batches, *options.threads) < 1 or options.new_tokens < 2:
        parser.error("repeats, prompt tokens, batches and threads are 1 or more, new tokens 2 or more")
    return options


def measure(
    model: str, threads: int, folder: str, *, options: argparse.Namespace, versions: dict[str, Any]
) -> list[Workload]:
    """Return the workloads of ``model``; the processes' versions go into ``versions``."""
    heading = f"{model}, {threads} thread{'s' * (threads > 1)}"
    size = f"{options.prompt_tokens} + {options.new_tokens} tokens"
    tasks = [Task(f"{heading}, batch {b}, {size}", [options.new_tokens] * b, True) for b in options.batches]
    if options.longtail:
        title = f"{heading}, long tail: {NUM_PROMPTS} prompts, {SLOTS} at a time, answers of up to {MAX_TOKENS} tokens"
        tasks.append(Task(title, longtail_lengths(), False))
    longest = max((max(task.limits) for task in tasks), default=0)
    job = {"folder": folder, "threads": threads, "room": options.prompt_tokens + longest}
    job["slots"] = max([SLOTS, *options.batches])
    family = MODELS[model]["model_type"]
    with Team(options.sides, family=family, peers=options.peers, job=job) as team:
        versions |= team.versions
        return [run_task(task, team, model=model, options=options) for task in tasks]


def run_task(task: Task, team: Team, *, model: str, options: argparse.Namespace) -> Workload:
    """Let all sides generate in turns."""
    shape, load = [len(task.limits), options.prompt_tokens], os.getloadavg()[0]
    work = {"vocab": MODELS[model]["vocab_size"], "shape": shape}
    for side in team.sides:
        team.ask(side, seed=0, limits=[2] * shape[0], **work)
    records = {side: Record(side) for side in team.sides}
    tokens: dict[str, list] = {side: [] for side in records}
    for repeat in range(options.repeats):
        for side, record in records.items():
            time.sleep(PAUSE if max(options.threads) > 1 else 0)
            ask = partial(team.ask, side, seed=repeat, **work)
            take_turn(task, record, tokens[side], ask=ask)
    whole = [record for record in records.values() if record.side in team.sides]
    reference = whole[0].side if whole else ""
    for record in whole:
        record.compare(tokens[record.side], tokens[reference])
    print(f"measured: {task.title}", file=sys.stderr)
    return Workload(task.title, max(task.limits), reference, whole, dict(team.absent), load)


def take_turn(task: Task, record: Record, tokens: list, *, ask: Any) -> None:
    """Ask one side once and note seconds and tokens; nothing when it has become absent."""
    answers = []
    if task.prefill:
        answers.append(ask(limits=[1] * len(task.limits)))
    answers.append(ask(limits=task.limits))
    if None in answers:
        return
    if task.prefill:
        record.prefill.append(answers[0]["seconds"])
        if answers[0]["read"] is not None:
            record.read.append(answers[1]["read"] - answers[0]["read"])
    record.total.append(answers[-1]["seconds"])
    tokens.append(answers[-1]["tokens"])


if __name__ == "__main__":
    sys.exit(main())
