"""What ``ppo_step.py`` found: medians, ratios, the table, and the dated files."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from ppo_step_work import PHASES, Work

from alignment.telemetry.tables import print_table

OURS, PLAIN = "paddle/library", "paddle/plain"
PEERS = {"torch/full": "torch", "torch/response": "torch, response-only head"}
TARGETS = {"rollout": 0.33, "scoring": 0.4, "update": 0.5, "total": 0.5}
"""Largest ratios to torch of the 110M model that issue 4 asks for."""
OWN_SETTINGS = ("host", "load_before")
"""Settings that differ between outcomes of one run."""
ROWS = (*PHASES, "total")
CLOCKS = ("wall", "CPU")
HEADER = (
    *("phase", *PEERS.values(), "alignment, plain", "alignment"),
    *("ratio", "spread", "target", "ratio to response-only", "plain to torch"),
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Largest differences of the two sides on the same weights and tokens."""

    differences: dict[str, float]
    """By name: absolute for measurements, relative for gradient norms."""

    @classmethod
    def of(cls, ours: Mapping[str, Any], peer: Mapping[str, Any]) -> Comparison:
        """Compare two answers to ``check``; both must hold the same names and shapes."""
        assert ours.keys() == peer.keys(), (ours.keys(), peer.keys())
        differences = {}
        for name, value in ours.items():
            left, right = np.asarray(value), np.asarray(peer[name])
            assert left.shape == right.shape, (name, left.shape, right.shape)
            scale = abs(right) if name.endswith("norm") else 1.0
            differences[name] = float(np.max(np.abs(left - right) / scale))
        return cls(differences=differences)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One model at one number of threads."""

    work: Work
    comparison: Comparison
    seconds: dict[str, list[dict[str, Sequence[float]]]]
    """By column, a record a step: ``{phase: [wall, CPU seconds]}``."""
    settings: dict[str, Any]
    tolerance: float

    @property
    def agrees(self) -> bool:
        """True when all differences are within the tolerance."""
        return max(self.comparison.differences.values()) <= self.tolerance

    @property
    def title(self) -> str:
        """Model and threads in words."""
        return f"{self.work.model} Llama, {self.work.threads} thread{'s' * (self.work.threads > 1)}"

    def series(self, column: str, phase: str, clock: str) -> list[float]:
        """Return the seconds of ``phase`` (or the total), a number a step."""
        phases, index = PHASES if phase == "total" else (phase,), CLOCKS.index(clock)
        return [sum(record[name][index] for name in phases) for record in self.seconds[column]]

    def row(self, phase: str, clock: str) -> tuple[Any, ...]:
        """Return the cells of ``HEADER`` for ``phase``."""
        peers = [self.series(column, phase, clock) for column in PEERS]
        ours, plain = (self.series(column, phase, clock) for column in (OURS, PLAIN))
        ratios = [median(ours) / median(peer) for peer in peers] + [median(plain) / median(peers[0])]
        by_step = [mine / other for mine, other in zip(ours, peers[0], strict=True)]
        seconds = [f"{median(series):.3f} s" for series in (*peers, plain, ours)]
        target = f"<= {TARGETS[phase]}" if phase in TARGETS else ""
        first, *others = (f"{ratio:.2f}" for ratio in ratios)
        return (phase, *seconds, first, f"{min(by_step):.2f} to {max(by_step):.2f}", target, *others)

    def describe_comparison(self) -> str:
        """Return the line on whether both sides compute the same."""
        found = ", ".join(f"{name} {value:.1e}" for name, value in self.comparison.differences.items())
        verdict = "agree" if self.agrees else "DO NOT AGREE"
        return f"same weights, same tokens: the sides {verdict} within {self.tolerance:g} (differences: {found})"


def print_outcome(outcome: Outcome) -> None:
    """Print both tables and the comparison."""
    for clock in CLOCKS:
        rows = [outcome.row(phase, clock) for phase in ROWS]
        print_table(f"One PPO step, {outcome.title}: median {clock} seconds", HEADER, rows)
    print(outcome.describe_comparison())
    print(f"load average before: {outcome.settings['load_before']}")


def write_results(outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write ``<date>-ppo-step-<cpu>.md`` and ``.json`` in ``folder``; return the first."""
    today, cpu = datetime.date.today().isoformat(), cpu_name()
    stem = f"{today}-ppo-step-{re.sub(r'[^a-z0-9]+', '-', cpu.lower()).strip('-')}"
    about = {"date": today, "cpu": cpu, "cores": _num_cores(), "python": platform.python_version(), "commit": commit()}
    folder.mkdir(parents=True, exist_ok=True)
    record = {**about, "outcomes": [asdict(outcome) for outcome in outcomes]}
    (folder / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    path = folder / f"{stem}.md"
    path.write_text(render_markdown(about, outcomes), encoding="utf-8")
    return path


def render_markdown(about: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return the result file for people."""
    lines = ["# One PPO step by phase", "", "Made by `python benchmarks/ppo_step.py --write`; see `../README.md`.", ""]
    settings = {key: value for key, value in outcomes[0].settings.items() if key not in OWN_SETTINGS}
    lines += [f"- {key}: {value}" for key, value in (about | settings).items()]
    for outcome in outcomes:
        work, steps = outcome.work, len(outcome.seconds[OURS])
        lines += ["", f"## {outcome.title}", ""]
        lines.append(
            f"{work.num_prompts} prompts x {work.prompt_length} + {work.response_length} tokens, {work.rows_per_batch} "
            f"rows a pass, {steps} steps a column in turns. Load average before: {outcome.settings['load_before']}. "
            f"Host settings of this package's process: {outcome.settings['host']}."
        )
        for clock in CLOCKS:
            rows = [HEADER, ["---"] * len(HEADER), *(outcome.row(phase, clock) for phase in ROWS)]
            lines += ["", f"Median {clock} seconds:", "", *(f"| {' | '.join(row)} |" for row in rows)]
        lines += ["", outcome.describe_comparison() + "."]
    return "\n".join(lines) + "\n"


def cpu_name() -> str:
    """Return the processor's name; those of very different generations may share it, so family and model follow."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name", platform.machine())
    return f"{name}, family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else name


def commit() -> str:
    """Return the commit of the working tree, marked when files differ from it."""

    return _git("rev-parse", "--short", "HEAD") + (" with changes" if _git("status", "--porcelain") else "")


def _git(*command: str) -> str:
    folder = Path(__file__).parent
    return subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
