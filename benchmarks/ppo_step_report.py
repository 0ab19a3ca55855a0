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
from ppo_step_cases import CASES
from ppo_step_counted import passes_of
from ppo_step_flops import count_bytes, count_flops
from ppo_step_work import MODELS

from alignment.telemetry.tables import print_table

OURS, FULL, BEST = "paddle/library", "torch/full", "torch/response"
NAMES = {FULL: "torch", BEST: "torch, response-only head", "paddle/plain": "alignment, plain", OURS: "alignment"}
OWN_SETTINGS = ("host", "load_before")
"""Settings that differ between outcomes of one run."""
CLOCKS = ("wall", "CPU")
MIB = 1 << 20
COUNTED = (
    *("phase", "least GFLOP", "alignment", "response-only", "torch", "GFLOP/s: alignment", "peers"),
    *("least GB", "alignment", "response-only", "torch"),
)
"""Work is counted from the lengths of the rows; GFLOP/s are of CPU seconds."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Largest differences of the two sides on the same weights and tokens."""

    differences: dict[str, float]
    """By name: absolute for measurements, relative for gradient norms."""

    @classmethod
    def of(cls, ours: Mapping[str, Any], peer: Mapping[str, Any], *, in_part: bool = False) -> Comparison:
        """Compare two answers to ``check``; both must hold the same names and shapes.

        ``in_part``: the peer measured some of its rows, holds NaN for the others and has no sums over all of them.
        """
        assert in_part or ours.keys() == peer.keys(), (ours.keys(), peer.keys())
        differences = {}
        for name, value in peer.items():
            left, right = np.asarray(ours[name]), np.asarray(value)
            assert left.shape == right.shape, (name, left.shape, right.shape)
            scale = abs(right) if name.endswith("norm") else 1.0
            found = np.abs(left - right) / scale
            differences[name] = float(np.nanmax(found) if in_part else np.max(found))
        return cls(differences=differences)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One workload with one model at one number of threads."""

    case: str
    """A key of ``CASES``."""
    work: Any
    comparison: Comparison
    seconds: dict[str, list[dict[str, Sequence[float]]]]
    """By column, a record a step: ``{phase: [wall, CPU seconds]}``."""
    peaks: dict[str, int]
    """Most resident bytes of a step by column."""
    settings: dict[str, Any]
    tolerance: float

    @property
    def agrees(self) -> bool:
        """True when all differences are within the tolerance."""
        return all(value <= self.tolerance for value in self.comparison.differences.values())  # NaN is not

    @property
    def title(self) -> str:
        """Workload, model and threads in words."""
        work, case = self.work, CASES[self.case]
        return f"({self.case}) {case.title}, {work.model} Llama, {work.threads} thread{'s' * (work.threads > 1)}"

    @property
    def columns(self) -> list[str]:
        """The measured columns."""
        return list(self.seconds)

    @property
    def rows(self) -> tuple[str, ...]:
        """The phases, and the total of several."""
        phases = CASES[self.case].phases
        return phases if len(phases) == 1 else (*phases, "total")

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the cells of ``row``."""
        names = [NAMES[column] for column in self.columns]
        return ("phase", *names, "ratio", "spread", "target", "ratio to response-only")

    def series(self, column: str, phase: str, clock: str) -> list[float]:
        """Return the seconds of ``phase`` (or the total), a number a step."""
        phases, index = CASES[self.case].phases if phase == "total" else (phase,), CLOCKS.index(clock)
        return [sum(record[name][index] for name in phases) for record in self.seconds[column]]

    def row(self, phase: str, clock: str) -> tuple[str, ...]:
        """Return the cells of ``header`` for ``phase``; a peer that was not measured has none."""
        target = CASES[self.case].targets.get(phase)
        return (
            phase,
            *(f"{median(self.series(column, phase, clock)):.3f} s" for column in self.columns),
            *self._ratio(FULL, phase, clock),
            "" if target is None else f"<= {target}",
            self._ratio(BEST, phase, clock)[0],
        )

    def _ratio(self, peer: str, phase: str, clock: str) -> tuple[str, str]:
        """Return (our median over that of ``peer``, spread of single steps)."""
        if peer not in self.seconds:
            return "", ""
        ours, others = (self.series(column, phase, clock) for column in (OURS, peer))
        by_step = [mine / other for mine, other in zip(ours, others, strict=True)]
        return f"{median(ours) / median(others):.2f}", f"{min(by_step):.2f} to {max(by_step):.2f}"

    def memory_row(self) -> tuple[str, ...]:
        """Return the peaks of the columns."""
        return ("peak memory", *(f"{self.peaks[column] / MIB:.0f} MiB" for column in self.columns))

    def counted(self) -> list[tuple[str, ...]]:
        """Return the cells of ``COUNTED`` by phase."""
        sizes, passes = MODELS[self.work.model], passes_of(self.work)
        found = []
        for phase in CASES[self.case].phases:
            flops, moved = (
                {column: count(sizes, parts[phase]) for column, parts in passes.items()}
                for count in (count_flops, count_bytes)
            )
            speed = [flops[c] / median(self.series(c, phase, "CPU")) for c in self.columns if c in flops and c != OURS]
            ours = flops[OURS] / median(self.series(OURS, phase, "CPU"))
            shares = [f"{flops[c] / flops['minimum']:.2f}" for c in (OURS, BEST, FULL)]
            found.append(
                (
                    phase,
                    f"{flops['minimum'] / 1e9:.1f}",
                    *shares,
                    f"{ours / 1e9:.0f}",
                    " / ".join(f"{one / 1e9:.0f}" for one in speed),
                    f"{moved['minimum'] / 1e9:.2f}",
                    *(f"{moved[c] / moved['minimum']:.2f}" for c in (OURS, BEST, FULL)),
                )
            )
        return found

    def describe_comparison(self) -> str:
        """Return the line on whether both sides compute the same."""
        if not self.comparison.differences:
            return "the sides were not compared: torch computed a part of the rows, and there are only sums over all"
        found = ", ".join(f"{name} {value:.1e}" for name, value in self.comparison.differences.items())
        verdict = "agree" if self.agrees else "DO NOT AGREE"
        return f"same weights, same tokens: the sides {verdict} within {self.tolerance:g} (differences: {found})"

    def describe_part(self) -> str:
        """Return the sentence on how much of torch's work was measured."""
        count = self.work.peer_batches
        if not count:
            return ""
        return (
            f" Of torch were measured {count} micro-batches of a phase (one where all have the same shape) and {count} "
            "calls of generate, evenly spread, where there are as many; their seconds are scaled by the counted FLOP "
            "of all, the optimizer's step is measured whole."
        )

    def tables(self) -> list[tuple[str, Sequence[str], list[Sequence[str]]]]:
        """Return (title, header, rows) of every table."""
        first = [(f"Median {clock} seconds", self.header, [self.row(p, clock) for p in self.rows]) for clock in CLOCKS]
        memory = ("Peak resident memory of a step", ("", *(NAMES[c] for c in self.columns)), [self.memory_row()])
        return [*first, memory, ("Counted work: GFLOP, GB, and multiples of the minimum", COUNTED, self.counted())]


def print_outcome(outcome: Outcome) -> None:
    """Print all tables and the comparison."""
    for title, header, rows in outcome.tables():
        print_table(f"{outcome.title}: {title}", header, rows)
    print(f"{outcome.describe_comparison()}.{outcome.describe_part()}")
    print(f"load average before: {outcome.settings['load_before']}", flush=True)


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
    lines = ["# One step by phase", "", "Made by `python benchmarks/ppo_step.py --write`; see `../README.md`.", ""]
    settings = {key: value for key, value in outcomes[0].settings.items() if key not in OWN_SETTINGS}
    lines += [f"- {key}: {value}" for key, value in (about | settings).items()]
    for outcome in outcomes:
        lines += ["", f"## {outcome.title}", ""]
        lines.append(
            f"{CASES[outcome.case].describe(outcome.work)}, {len(outcome.seconds[OURS])} steps a column in turns. Load "
            f"average before: {outcome.settings['load_before']}. "
            f"Host settings of this package's process: {outcome.settings['host']}.{outcome.describe_part()}"
        )
        for title, header, rows in outcome.tables():
            lines += [
                "",
                f"{title}:",
                "",
                *(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]),
            ]
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
