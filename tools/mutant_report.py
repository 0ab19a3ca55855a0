"""The table of ``make mutants``: what was tried, what lives, and why."""

from __future__ import annotations

import datetime
import json
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mutant_faults import Fault

LIMIT = 0.05
"""Share of the faults that are not equivalent that may live."""
REASONS = Path("tools", "mutants.json")
TABLE = Path("docs", "mutants.md")
HEAD = """# Faults that the tests notice, and those that live

Written by `make mutants` (tools/mutants.py): single faults, drawn by seed, put into loops, assembly, rollout, training,
data and telemetry. For each the tests that run its lines are run until one fails. Why a fault lives stands in
`tools/mutants.json`; *equivalent* ones change nothing that a user could see.
"""


def read_reasons(root: Path) -> dict[str, dict[str, str]]:
    """Return {fault: {verdict: equivalent or unkilled, reason: a sentence}}."""
    return json.loads((root / REASONS).read_text(encoding="utf-8"))


def survivors(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the faults that no test noticed."""
    return [name for name, result in results.items() if result["outcome"] == "alive"]


def limit_is_kept(root: Path, results: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether every survivor has a reason, and few enough are not equivalent."""
    reasons, alive = read_reasons(root), survivors(results)
    nameless = [name for name in alive if name not in reasons]
    for name in nameless:
        print(f"no reason in {REASONS}: {name}")
    equivalent = sum(reasons.get(name, {}).get("verdict") == "equivalent" for name in alive)
    share = (len(alive) - equivalent) / max(1, len(results) - equivalent)
    print(f"{len(results)} faults, {len(alive)} live, {equivalent} of them equivalent: {share:.1%} of {LIMIT:.0%}")
    return not nameless and share <= LIMIT


def write_report(root: Path, faults: Sequence[Fault], results: Mapping[str, Mapping[str, Any]], *, seed: int) -> None:
    """Write the table."""
    reasons, alive = read_reasons(root), set(survivors(results))
    equivalent = {name for name in alive if reasons.get(name, {}).get("verdict") == "equivalent"}
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    seconds = sum(result["seconds"] for result in results.values())
    counted = len(results) - len(equivalent)
    parts = [
        HEAD,
        f"{datetime.date.today()}, commit {commit.stdout.strip()}, seed {seed}: {len(results)} faults in "
        f"{seconds / 60:.0f} minutes, {len(alive)} live, {len(equivalent)} of these are equivalent; "
        f"**{len(alive) - len(equivalent)} of {counted} live ({(len(alive) - len(equivalent)) / counted:.1%})**.\n",
        _counts("package", faults, results, equivalent, lambda fault: fault.path.split("/")[1]),
        _counts("kind", faults, results, equivalent, lambda fault: fault.operator),
        "## What lives\n\n| fault | verdict | reason |\n|---|---|---|",
    ]
    rows = [(name, reasons.get(name, {"verdict": "unkilled", "reason": "**no reason yet**"})) for name in sorted(alive)]
    parts += [f"| `{_cell(name)}` | {row['verdict']} | {row['reason']} |" for name, row in rows]
    (root / TABLE).write_text("\n".join(parts) + "\n", encoding="utf-8")


def _counts(
    title: str,
    faults: Sequence[Fault],
    results: Mapping[str, Mapping[str, Any]],
    equivalent: set[str],
    group: Callable[[Fault], str],
) -> str:
    counts = {"tried": Counter(), "killed": Counter(), "equivalent": Counter(), "alive": Counter()}
    for fault in faults:
        is_alive = results[fault.name]["outcome"] == "alive"
        verdict = "killed" if not is_alive else "equivalent" if fault.name in equivalent else "alive"
        counts["tried"][group(fault)] += 1
        counts[verdict][group(fault)] += 1
    rows = [
        f"| {name} | " + " | ".join(str(count[name]) for count in counts.values()) + " |"
        for name in sorted(counts["tried"])
    ]
    return "\n".join([f"| {title} | tried | killed | equivalent | live |", "|---|---|---|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")
