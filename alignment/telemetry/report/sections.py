"""Prepare samples, data ledger and arguments for the templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignment.telemetry.log import warn
from alignment.telemetry.report.run_files import TRAINING
from alignment.telemetry.tables import format_number

SAMPLES_EACH_END = 3
NOT_SET = "(not given)"
OF_A_START = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "run_name", "logging_dir")
"""Keys of one start of a run: a resumed run may change them without a warning, a comparison leaves them out."""
REWARD_SOURCE = (
    "reward_model_name_or_path",
    "score_before_padding",
    "reward_function",
    "use_rm_server",
    "reward_server",
    "reward_sources",
    "reward_weights",
)
"""Keys that say where rewards come from."""


class SampleRow(NamedTuple):
    """One prompt with its responses in the first (None if it has none) and the last evaluation."""

    prompt: str
    first: Mapping[str, Any] | None
    last: Mapping[str, Any]


class LedgerSummary(NamedTuple):
    """What happened to the rows of one dataset in one role."""

    role: str
    dataset: str
    selected: str
    used: str
    notes: list[str]
    """One line per reason why rows were left out or changed."""


class Comparison(NamedTuple):
    """Samples of the last evaluation, best, worst and others, with those of the first."""

    of: str
    """The source of the samples: ``evaluation``, or ``training rollout`` in a run without evaluations."""
    first_step: int | None
    last_step: int
    best: list[SampleRow]
    worst: list[SampleRow]
    others: list[SampleRow]


def comparison(samples: Mapping[int, Sequence[Mapping[str, Any]]]) -> Comparison | None:
    """Pair the samples of the last evaluation with the first one's for the same prompts, best score first."""
    if not samples:
        return None
    first_step, last_step = min(samples), max(samples)
    last = _by_prompt(samples[last_step])
    first = _by_prompt(samples[first_step]) if first_step != last_step else {}
    if not first.keys() & last.keys():
        first = {}  # training rollouts have other prompts at every step
    ranked = sorted(last, key=lambda key: _score_of(last[key]), reverse=True)
    rows = [SampleRow(key[0], first.get(key), last[key]) for key in ranked]
    ends = min(SAMPLES_EACH_END, (len(rows) + 1) // 2)
    worst_from = max(ends, len(rows) - SAMPLES_EACH_END)
    is_training = samples[last_step][0].get("source") == TRAINING
    return Comparison(
        of="training rollout" if is_training else "evaluation",
        first_step=first_step if first else None,
        last_step=last_step,
        best=rows[:ends],
        worst=rows[worst_from:],
        others=rows[ends:worst_from],
    )


def ledger_rows(ledger: Any) -> list[LedgerSummary]:
    """Return a summary per role and dataset of ``ledger.json`` ({role: {"datasets": ..., "rows": ...}})."""
    if ledger is None:
        return []
    try:
        return [row for role, account in ledger.items() for row in _account_rows(role, account)]
    except (AttributeError, LookupError, TypeError, ValueError):
        warn("ledger.json is left out of the report: it has not the form that a run writes")
        return []


def _account_rows(role: str, account: Mapping[str, Any]) -> list[LedgerSummary]:
    notes: dict[str, list[str]] = {dataset: [] for dataset in account["datasets"]}
    for entry in account["rows"]:
        examples = ", ".join(map(str, entry["examples"]))
        note = f"{entry['reason']}: {entry['count']:,} {entry['effect']}" + (f" (row {examples})" if examples else "")
        notes.setdefault(entry["dataset"], []).append(note)
    rows = []
    for dataset, lines in notes.items():
        sizes = account["datasets"].get(dataset, {})
        rows.append(LedgerSummary(role, dataset, *(_count(sizes.get(key)) for key in ("selected", "used")), lines))
    return rows + [LedgerSummary(role, "all", "", "", [warning]) for warning in account.get("warnings", [])]


def argument_rows(arguments: Any) -> list[tuple[str, str, str]]:
    """Return (key, value as in a JSON file, origin) for every argument, with groups flattened."""
    if not isinstance(arguments, Mapping):
        return []
    rows: list[tuple[str, str, str]] = []
    for key, entry in arguments.items():
        if isinstance(entry, Mapping) and "value" in entry:
            rows.append((key, _spell(entry["value"]), str(entry.get("origin", ""))))
        elif isinstance(entry, Mapping):
            rows.extend(argument_rows(entry))
        else:
            rows.append((key, _spell(entry), ""))
    return rows


def argument_differences(arguments: Sequence[Any]) -> list[tuple[str, list[str]]]:
    """Return (key, value in each run) for every argument that differs between runs, but those of a start."""
    runs = [{key: value for key, value, _ in argument_rows(one)} for one in arguments]
    keys = dict.fromkeys(key for run in runs for key in run if key not in OF_A_START)
    table = [(key, [run.get(key, NOT_SET) for run in runs]) for key in keys]
    return [(key, values) for key, values in table if len(set(values)) > 1]


def reward_source(arguments: Any) -> tuple[tuple[str, str], ...]:
    """Return the (key, value) pairs that say where the rewards of a run come from; with equal ones runs compare."""
    rows = argument_rows(arguments)
    return tuple((key, value) for key, value, _ in rows if key in REWARD_SOURCE and value not in ("null", "false"))


def _spell(value: Any) -> str:
    """Return ``value`` as in a JSON file, text without quotes where it cannot be taken for another value."""
    text = json.dumps(value, ensure_ascii=False)
    return value if isinstance(value, str) and not _is_json(value) else text


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _by_prompt(samples: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], Mapping[str, Any]]:
    """Index samples by prompt and occurrence, as the two answers of a preference pair share their prompt."""
    indexed: dict[tuple[str, int], Mapping[str, Any]] = {}
    seen: dict[str, int] = {}
    for sample in samples:
        prompt = str(sample.get("prompt", ""))
        seen[prompt] = seen.get(prompt, 0) + 1
        indexed[prompt, seen[prompt]] = sample
    return indexed


def _score_of(sample: Mapping[str, Any]) -> float:
    score = sample.get("score")
    return float(score) if isinstance(score, (int, float)) else float("-inf")


def _count(number: int | None) -> str:
    return "" if number is None else format_number(number)
