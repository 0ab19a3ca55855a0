"""What ``rollout.py`` found: medians, ratios to the fused engine, the tables, and the dated files."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ppo_step_report import commit, cpu_name
from rollout_work import SIDES

CLOCKS = ("wall", "CPU")
TOKENS_OF_EXACT_SIDES = 0.9
"""Least share of equal tokens between two float32 sides: rows part where two logits are within rounding, not more."""


@dataclass
class Record:
    """The turns of one side at one workload; seconds are [wall, CPU]."""

    side: str
    total: list[Sequence[float]] = field(default_factory=list)
    """Prompts and answers."""
    prefill: list[Sequence[float]] = field(default_factory=list)
    """Prompts and the first token of each answer; empty where that was not measured."""
    read: list[int] = field(default_factory=list)
    """Bytes of matrices that all decode steps read; empty where they are not counted."""
    same_tokens: float | None = None
    """Share of tokens equal to those of the side that is compared with."""
    same_first: float | None = None
    """The same of first tokens, which no earlier difference has touched."""

    def compare(self, tokens: list[list[list[int]]], others: list[list[list[int]]]) -> None:
        """Fill in the shares; both are [turn][row][place]."""
        rows = [pair for turns in zip(tokens, others, strict=True) for pair in zip(*turns, strict=True)]
        equal = [mine == other for row in rows for mine, other in zip(*row, strict=True)]
        self.same_tokens = sum(equal) / len(equal)
        self.same_first = sum(mine[0] == other[0] for mine, other in rows) / len(rows)

    def numbers(self, clock: int, new_tokens: int) -> list[float]:
        """Return medians: prefill seconds, seconds of a decode step, seconds in all; only the last without prefill."""
        total = median(turn[clock] for turn in self.total)
        if not self.prefill:
            return [total]
        pairs = zip(self.total, self.prefill, strict=True)
        steps = median((whole[clock] - start[clock]) / (new_tokens - 1) for whole, start in pairs)
        return [median(turn[clock] for turn in self.prefill), steps, total]


class Workload(NamedTuple):
    """All sides at one workload."""

    title: str
    new_tokens: int
    """Tokens of each answer; of the longest where they differ."""
    compared_with: str
    """The side whose tokens are the measure."""
    records: list[Record]
    absent: dict[str, str]
    """Why a side is not among the records."""
    load: float
    """Load average before."""

    @property
    def agrees(self) -> bool:
        """False when two sides that compute in float32 have too many different tokens."""
        exact = [r for r in self.records if SIDES[r.side].exact and SIDES[self.compared_with].exact and r.prefill]
        return all(record.same_tokens >= TOKENS_OF_EXACT_SIDES for record in exact)

    def lines(self) -> list[str]:
        """Return a table a clock, and what is absent."""
        lines = [f"## {self.title}", ""]
        for place, clock in enumerate(CLOCKS):
            lines += [*self._table(place, clock), ""]
        lines.append(f"Tokens are compared with {self.compared_with}; load average before: {self.load:.2f}.")
        lines += [
            f"{record.side} reads {median(record.read) / (self.new_tokens - 1) / 1e6:.1f} MB of matrices a decode "
            "step, each once, of experts those that were chosen."
            for record in self.records
            if record.read
        ]
        lines += [f"Absent: {side}: {reason}" for side, reason in self.absent.items()]
        return lines if self.agrees else [*lines, "SIDES THAT COMPUTE IN float32 DO NOT AGREE"]

    def _table(self, place: int, clock: str) -> list[str]:
        steps = any(record.prefill for record in self.records)
        names = ["prefill s", "decode ms a step", "total s"] if steps else ["total s"]
        header = [clock, *(cell for name in names for cell in (name, "x ours"))]
        header += ["same tokens", "same first"] if place == 0 else []
        by_side = {record.side: record.numbers(place, self.new_tokens) for record in self.records}
        rows = []
        for record in self.records:
            mine, ours = by_side[record.side], by_side.get(SIDES[record.side].ours)
            cells = []
            for index, (name, number) in enumerate(zip(names, mine, strict=True)):
                cells.append(f"{1e3 * number:.2f}" if " ms " in name else f"{number:.3f}")
                cells.append(f"{number / ours[index]:.2f}" if ours else "")
            cells += [f"{record.same_tokens:.1%}", f"{record.same_first:.1%}"] if place == 0 else []
            rows.append([record.side, *cells])
        return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def render(workloads: Sequence[Workload], about: dict[str, Any]) -> str:
    """Return the report for people."""
    lines = [
        "# Greedy rollouts on the same weights and prompts",
        "",
        "Made by `python benchmarks/rollout.py --write`; see `../README.md`. `x ours`: time over that of our fused "
        "engine with weights of the same type (above 1: ours is faster).",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
    ]
    for workload in workloads:
        lines += ["", *workload.lines()]
    return "\n".join(lines) + "\n"


def describe(options: dict[str, Any], host: str, versions: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return what is said of a run above its tables; no paths of the machine."""
    today = datetime.date.today().isoformat()
    shown = {name: value for name, value in options.items() if name not in ("write", "results", "peers", "name")}
    return {"date": today, "cpu": cpu_name(), "commit": commit(), "host": host, "options": shown, "versions": versions}


def write(workloads: Sequence[Workload], about: dict[str, Any], *, folder: Path, name: str) -> Path:
    """Write ``<date>_<name>.md`` and ``.json`` in ``folder``; return the first."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{about['date']}_{name}"
    numbers = [
        {**workload._asdict(), "records": [asdict(record) for record in workload.records]} for workload in workloads
    ]
    text = json.dumps({**about, "workloads": numbers}, indent=1) + "\n"
    stem.with_suffix(".json").write_text(text, encoding="utf-8")
    path = stem.with_suffix(".md")
    path.write_text(render(workloads, about), encoding="utf-8")
    return path
