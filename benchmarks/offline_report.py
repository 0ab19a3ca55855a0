"""What ``offline.py`` found: differences of losses, medians, ratios, the balance over processes, and dated files."""

from __future__ import annotations

import datetime
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from offline_products import product_share
from offline_work import Work
from ppo_step_report import commit, cpu_name

from alignment.architecture.parts import even_cut
from alignment.parallel.micro_batches import MicroBatches
from alignment.telemetry.tables import print_table

TOLERANCE = 1e-4
"""On every loss, absolute."""
TARGETS = {("equal", "fixed"): 0.6, ("ragged", "packed"): 0.35}
"""Largest ratios to TRL that issue 12 asks for."""
WARM = 2
"""Steps before the first measured one."""
LEAST_STEPS = WARM + 2
"""The last step is not timed: exporting follows it."""
CLOCKS = ("wall", "CPU")
HEADER = ("model", "objective", "rows", "TRL", "fixed", "by tokens", "fixed / TRL", "by tokens / TRL")
HEADER += ("products", "target", "loss")
RANKS = (2, 8)
UPDATES = 20
"""Updates over which the balance is measured."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One objective on one shape of rows."""

    work: Work
    sides: dict[str, Any]
    """``trl``, ``fixed``, ``packed`` to losses, seconds and versions."""
    load_before: float

    @property
    def difference(self) -> float:
        """The largest difference of a loss from TRL's."""
        expected = self.sides["trl"]["losses"]
        found = [self.sides[name]["losses"] for name in ("fixed", "packed")]
        assert all(len(losses) == len(expected) == self.work.steps for losses in found)
        return max(abs(one - other) for losses in found for one, other in zip(losses, expected, strict=True))

    @property
    def agrees(self) -> bool:
        """True when all losses agree with TRL's."""
        return self.difference <= TOLERANCE

    def seconds(self, side: str, clock: str) -> float:
        """Return the median seconds of a step."""
        return median(step[CLOCKS.index(clock)] for step in self.sides[side]["seconds"][WARM:])

    def row(self, clock: str) -> tuple[str, ...]:
        """Return the cells of ``HEADER``."""
        peer, *ours = (self.seconds(side, clock) for side in ("trl", "fixed", "packed"))
        targets = [f"{name} <= {limit}" for (shape, name), limit in TARGETS.items() if shape == self.work.shape]
        return (
            self.work.model,
            self.work.objective,
            self.work.shape,
            *(f"{value:.3f} s" for value in (peer, *ours)),
            *(f"{value / peer:.2f}" for value in ours),
            f"{product_share(self.work):.2f}",
            ", ".join(targets).replace("packed", "by tokens"),
            f"{self.difference:.1e}",
        )


def balance(work: Work) -> list[tuple[str, ...]]:
    """Return (processes, fixed, by tokens): tokens of the busiest process over the mean, the median of all updates."""
    rows = []
    for ranks in RANKS:
        drawn = replace(work, steps=UPDATES * ranks).samples()
        sizes = [sum(len(prompt) + len(answer) for answer in answers) for prompt, answers in drawn]
        plans = {
            name: MicroBatches(rows=work.samples_per_batch, max_tokens=limit, ranks=ranks)
            for name, limit in (("fixed", None), ("by tokens", work.max_tokens))
        }
        step = work.batches_per_step * work.samples_per_batch * ranks
        updates = [sizes[i : i + step] for i in range(0, len(sizes), step)]
        found = [f"{median(_spread(plan, update) for update in updates):.3f}" for plan in plans.values()]
        rows.append((str(ranks), *found))
    return rows


def _spread(plan: MicroBatches, sizes: Sequence[int]) -> float:
    sums = [sum(sizes[row] for row in group) for group in plan.divide(sizes)]
    shares = [sum(sums[slice(*even_cut(len(sums), plan.ranks, rank))]) for rank in range(plan.ranks)]
    return max(shares) * plan.ranks / sum(shares)


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print both tables."""
    for clock in CLOCKS:
        print_table(f"A training step: median {clock} seconds", HEADER, [outcome.row(clock) for outcome in outcomes])


def write_results(outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write ``<date>-offline-<cpu>.md`` and ``.json`` in ``folder``; return the first."""
    today, cpu = datetime.date.today().isoformat(), cpu_name()
    stem = f"{today}-offline-{re.sub(r'[^a-z0-9]+', '-', cpu.lower()).strip('-')}"
    about = {"date": today, "cpu": cpu, "python": platform.python_version(), "commit": commit()}
    folder.mkdir(parents=True, exist_ok=True)
    record = {**about, "outcomes": [asdict(outcome) for outcome in outcomes]}
    (folder / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    path = folder / f"{stem}.md"
    path.write_text(render_markdown(about, outcomes), encoding="utf-8")
    return path


def render_markdown(about: dict[str, str], outcomes: Sequence[Outcome]) -> str:
    """Return the page of results."""
    work, sides = outcomes[0].work, outcomes[0].sides
    versions = {name: text for side in sides.values() for name, text in side["versions"].items()}
    said = ", ".join(f"{key} {value}" for key, value in {**about, **versions}.items())
    loads = ", ".join(str(outcome.load_before) for outcome in outcomes)
    lines = [
        f"# {', '.join(dict.fromkeys(outcome.work.objective for outcome in outcomes))} against TRL",
        "",
        f"{said}; {work.threads} thread, load before each: {loads}.",
        "",
        f"{work.steps} steps of {work.batches_per_step} x {work.rows_per_batch} rows (a pair has two) on the same "
        f"weights, rows and order; equal rows have {work.length} tokens, ragged ones log-normal answers of up to "
        f"{work.longest}. By tokens: micro-batches of up to {work.max_tokens} tokens. Seconds are medians after {WARM} "
        "steps; products: multiplications with weights, ours by fixed rows as a share of TRL's; loss: the largest "
        "difference of a loss from TRL's over all steps and both variants. Neither side recomputes activations.",
        "",
    ]
    for clock in CLOCKS:
        lines += [
            f"## {clock} seconds of a step",
            "",
            *_table(HEADER, [outcome.row(clock) for outcome in outcomes]),
            "",
        ]
    ragged = [outcome.work for outcome in outcomes if outcome.work.shape == "ragged"]
    if ragged:
        header = ("objective", "processes", "fixed rows", "by tokens")
        shares = sorted({(one.objective, *row) for one in ragged for row in balance(one)})
        lines += ["## Balance: tokens of the busiest process over the mean", "", *_table(header, shares), ""]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
