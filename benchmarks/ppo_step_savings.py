"""What each of this package's savings brings alone: the named choices of its arguments, switched off and on."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from ppo_step_pairs import PairWork
from ppo_step_report import commit, cpu_name
from side_process import SideProcess

from alignment.telemetry.tables import print_table

OFF: dict[str, dict[str, Any]] = {
    "compiled operators and fused AdamW (use_native_ops)": {"use_native_ops": False},
    "shared prefixes (share_prefixes)": {"share_prefixes": False},
    "micro-batches by tokens (packing_samples)": {"packing_samples": False},
    "log-probs of the engine (use_rollout_logprobs)": {"use_rollout_logprobs": False},
    "values of the update (values_from_update)": {"values_from_update": False},
}
"""Each saving with the argument that switches it off."""
OF_ROLLOUTS = ("use_rollout_logprobs", "values_from_update")
NEEDS = {"share_prefixes": "use_native_ops"}
"""A saving to the one that it is refused without."""
HEADER = ("saving", "off alone: CPU s", "over all on", "on alone: CPU s", "over all off")


def measure_savings(
    work: Any, open_ours: Callable[[], SideProcess], folder: Path, *, steps: int
) -> list[dict[str, Any]]:
    """Return a record for each saving: CPU seconds of a step with it alone off, and with it alone on."""
    choices = {name: off for name, off in OFF.items() if not (isinstance(work, PairWork) and _key(off) in OF_ROLLOUTS)}

    def run(off: Sequence[str]) -> float:
        overrides = {key: value for name in off for key, value in choices[name].items()}
        if overrides.get("packing_samples") is False:
            overrides["max_tokens_per_batch"] = None
        return _seconds(replace(work, overrides=overrides), open_ours, folder, steps=steps)

    every = list(choices)
    rows = [{"saving": "all", "off": run(every), "on": run([])}]
    for name in every:
        kept = {name} | {other for other in every if _key(choices[other]) == NEEDS.get(_key(choices[name]))}
        rows.append(
            {
                "saving": name,
                "off": run([name, *_useless(name, choices)]),
                "on": run([n for n in every if n not in kept]),
            }
        )
    return rows


def _useless(name: str, choices: dict[str, dict[str, Any]]) -> list[str]:
    """Return the savings that are refused without ``name``."""
    return [other for other, off in choices.items() if NEEDS.get(_key(off)) == _key(choices[name])]


def _key(off: dict[str, Any]) -> str:
    return next(iter(off))


def _seconds(work: Any, open_ours: Callable[[], SideProcess], folder: Path, *, steps: int) -> float:
    """Return the median CPU seconds of a step of ``work``."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    work.write(folder)
    with open_ours() as side:
        side.ask(step=0, variant="library")
        records = [side.ask(step=step, variant="library")["seconds"] for step in range(1, steps + 1)]
    return median(sum(cpu for _, cpu in record.values()) for record in records)


def cells(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the cells of ``HEADER``."""
    all_off, all_on = rows[0]["off"], rows[0]["on"]
    first = ("all of them", f"{all_off:.2f}", f"{all_off / all_on:.2f}", f"{all_on:.2f}", f"{all_on / all_off:.2f}")
    others = [
        (
            row["saving"],
            f"{row['off']:.2f}",
            f"{row['off'] / all_on:.2f}",
            f"{row['on']:.2f}",
            f"{row['on'] / all_off:.2f}",
        )
        for row in rows[1:]
    ]
    return [first, *others]


def print_savings(case: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    print_table(f"({case}) What each saving brings: CPU seconds of a step", HEADER, cells(rows))


def write_savings(found: Sequence[dict[str, Any]], folder: Path) -> Path:
    """Write a dated markdown and JSON file; return the first."""
    about = {"date": datetime.date.today().isoformat(), "cpu": cpu_name(), "commit": commit()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{about['date']}-ppo-step-savings.md"
    path.with_suffix(".json").write_text(
        json.dumps({**about, "savings": list(found)}, indent=1) + "\n", encoding="utf-8"
    )
    lines = ["# What each saving brings alone", "", *(f"- {key}: {value}" for key, value in about.items())]
    lines += ["- made by: `python benchmarks/ppo_step.py --savings --write`"]
    for one in found:
        lines += ["", f"## ({one['case']}) {one['model']}, {one['threads']} thread(s)", ""]
        lines += [f"| {' | '.join(row)} |" for row in (HEADER, ["---"] * len(HEADER), *cells(one["rows"]))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
