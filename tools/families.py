"""Write docs/families.md: for each family, what the tests of families did in the runs whose reports are given.

``python tools/families.py REPORT.xml ...``, with reports of ``pytest --junitxml`` made at this commit.
"""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path("docs", "families.md")
CHECKS = {
    "test_logits_on_ragged_rows": "logits",
    "test_gradients": "gradients",
    "test_both_engines_answer_as_transformers": "greedy answers",
    "test_a_folder_written_here_is_the_same_model_there": "folder there",
    "test_a_reward_head_both_ways": "reward head",
    "test_half_precision_and_shards": "bf16 in shards",
    "test_older_spellings_mean_the_same": "older spellings",
    "test_the_first_step_is_that_of_the_reference": "KL 0, ratio 1",
    "ppo": "PPO",
    "dpo": "DPO",
    "lora": "DPO with LoRA",
}
"""A test, or a trainer of ``test_updates_equal_one_process``, to the head of its column."""
WORDS = {"failure": "FAILED", "error": "FAILED", "skipped": "not run"}
HEAD = """# What was executed for each family

Written by `python tools/families.py REPORT.xml ...` from the reports (`--junitxml`) of two tests. A number counts
tests that passed.

- Logits to older spellings: `pytest tests/interop/test_family_conformance.py`, against transformers.
- The others: `pytest -m rare tests/distributed/test_family_layouts.py`. The first step is checked in one process,
  TP2xPP2, PP2 and stage 3, of mixtures also TP2 with their experts apart; PPO, DPO and LoRA of all but the first are
  compared with one process.

Where a column is empty the test has no such row: `tests/contract/test_families.py` compares the logits of llama,
mistral, qwen2 and qwen3 with transformers, and llama's trainers are in [parity.md](parity.md).
"""


class Result(NamedTuple):
    """One test."""

    family: str
    check: str
    outcome: str
    """"passed", or one of ``WORDS``."""


def read_report(path: Path) -> Iterator[Result]:
    """Yield the tests of a report that belong to a column."""
    for case in ET.parse(path).getroot().iter("testcase"):
        name, _, values = case.attrib["name"].rstrip("]").partition("[")
        family, check = values, name
        if "layouts" in case.attrib["classname"] and values:
            family, *rest = values.split("-")[1:]
            check = next((word for word in rest if word in CHECKS), name)
        if check in CHECKS:
            found = [WORDS[part.tag] for part in case if part.tag in WORDS]
            yield Result(family, check, found[0] if found else "passed")


def make_table(results: Iterable[Result]) -> str:
    """Return a row for each family: how many tests passed, and each other outcome with its number."""
    cells: Mapping[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        cells[result.family][result.check].append(result.outcome)
    lines = [f"| family | {' | '.join(CHECKS.values())} |", "|---" * (len(CHECKS) + 1) + "|"]
    for family in sorted(cells):
        lines.append(f"| {family} | {' | '.join(_cell(cells[family][check]) for check in CHECKS)} |")
    return "\n".join(lines)


def _cell(outcomes: list[str]) -> str:
    others = [f"{outcomes.count(word)} {word}" for word in dict.fromkeys(outcomes) if word != "passed"]
    passed = [str(outcomes.count("passed"))] if "passed" in outcomes else []
    return ", ".join(passed + others)


def main(reports: list[str]) -> None:
    """Write the page."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    paths = [Path(report) for report in reports]
    days = sorted({suite.attrib["timestamp"][:10] for path in paths for suite in ET.parse(path).getroot()})
    table = make_table(result for path in paths for result in read_report(path))
    text = f"{HEAD}\nCommit {commit}, {' and '.join(days)}, on a CPU.\n\n{table}\n"
    (ROOT / PAGE).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
