"""What each section of the report shows, as plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from alignment.telemetry.charts import Point, draw_line, draw_scatter
from alignment.telemetry.run_files import TRAINING
from alignment.telemetry.tables import format_number

GROUPS = {
    "eval": "Evaluation",
    "train": "Training",
    "reward": "Reward",
    "kl": "KL divergence",
    "policy": "Policy",
    "critic": "Critic",
    "sft": "Supervised",
    "rollout": "Rollout",
    "time": "Time",
    "memory": "Memory of the main process (GiB)",
    "traffic": "Sent by the main process (MiB)",
}
FRONTIERS = (
    # (value, KL): what was measured in one go is drawn together.
    ("train/reward", ("train/kl_divergence", "kl/k1")),
    ("eval/reward", ("eval/kl_divergence", "train/kl_divergence", "kl/k1")),
    ("eval/true_score", ("eval/kl_divergence", "train/kl_divergence", "kl/k1")),
)
CORRELATION_MARK = "length_correlation"
SAMPLES_EACH_END = 3


class Card(NamedTuple):
    """One key number; ``before`` and ``change`` are empty when there is no earlier value."""

    label: str
    value: str
    before: str
    change: str


class Chart(NamedTuple):
    """One chart with its heading."""

    title: str
    value: str
    warning: str
    svg: Markup


class SampleRow(NamedTuple):
    """One prompt with the first and the last evaluation's response; ``first`` is None where none is known."""

    prompt: str
    first: Mapping[str, Any] | None
    last: Mapping[str, Any]


class LedgerRow(NamedTuple):
    """What became of the rows of one dataset in one role."""

    role: str
    dataset: str
    selected: str
    used: str
    notes: list[str]
    """One line a reason why rows were left out or changed."""


class Comparison(NamedTuple):
    """Samples of the last evaluation, best and worst ahead, beside those of the first."""

    of: str
    """What sampled them: ``evaluation``, or ``training rollout`` in a run without one."""
    first_step: int | None
    last_step: int
    best: list[SampleRow]
    worst: list[SampleRow]
    others: list[SampleRow]


def summary_cards(summary: Mapping[str, Any]) -> list[Card]:
    """Return a card for every entry: a value, or a pair (before, after)."""
    cards = []
    for label, value in summary.items():
        if isinstance(value, (tuple, list)) and len(value) == 2:
            before, after = value
            numeric = all(isinstance(end, (int, float)) for end in value)
            change = ("+" if after >= before else "") + format_number(after - before) if numeric else ""
            cards.append(Card(label, _show(after), _show(before), change))
        else:
            cards.append(Card(label, _show(value), "", ""))
    return cards


def metric_panels(
    series: Mapping[str, Sequence[Point]], non_finite: Mapping[str, int]
) -> list[tuple[str, str, list[Chart]]]:
    """Return (anchor, heading, charts) for each metric prefix, known prefixes first."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in sorted({*series, *non_finite}):
        groups.setdefault(name.split("/")[0] if "/" in name else "other", []).append(name)
    return [
        (group, GROUPS.get(group, group), [_metric_chart(name, series.get(name, ()), non_finite) for name in names])
        for group, names in groups.items()
        if names
    ]


def hacking_charts(series: Mapping[str, Sequence[Point]]) -> list[Chart]:
    """Return what tells reward hacking from progress.

    The reward bought with KL (Gao et al. 2023: the true score turns down where the proxy still climbs), the same for
    a true score when the run has one, and the correlation of reward with length.
    """
    charts = []
    for name, kl_names in FRONTIERS:
        kl = next((kl_name for kl_name in kl_names if kl_name in series), None)
        points = _join(series[kl], series[name]) if kl and name in series else []
        if len(points) > 1:
            svg = draw_scatter(points, x_label=f"{kl} (nats)", y_label=name)
            charts.append(Chart(f"{name} bought with KL", "", "", svg))
    for name in sorted(series):
        if CORRELATION_MARK in name:
            charts.append(_metric_chart(name, series[name], {}))
    return charts


def comparison(samples: Mapping[int, Sequence[Mapping[str, Any]]]) -> Comparison | None:
    """Pair the samples of the last evaluation with the first one's answers to the same prompts, best score first."""
    if not samples:
        return None
    first_step, last_step = min(samples), max(samples)
    last = _by_prompt(samples[last_step])
    first = _by_prompt(samples[first_step]) if first_step != last_step else {}
    if not first.keys() & last.keys():
        first = {}  # rollouts of training: other prompts at every step
    ranked = sorted(last, key=lambda place: _score_of(last[place]), reverse=True)
    rows = [SampleRow(place[0], first.get(place), last[place]) for place in ranked]
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


def ledger_rows(ledger: Any) -> list[LedgerRow]:
    """Return a row for each role and dataset of ``ledger.json`` ({role: {"datasets": ..., "rows": ...}})."""
    if not isinstance(ledger, Mapping):
        return []
    rows = []
    for role, account in ledger.items():
        notes: dict[str, list[str]] = {dataset: [] for dataset in account["datasets"]}
        for entry in account["rows"]:
            examples = ", ".join(map(str, entry["examples"]))
            note = f"{entry['reason']}: {entry['count']:,} {entry['effect']}" + (
                f" (row {examples})" if examples else ""
            )
            notes.setdefault(entry["dataset"], []).append(note)
        for dataset, lines in notes.items():
            sizes = account["datasets"].get(dataset, {})
            rows.append(LedgerRow(role, dataset, _show(sizes.get("selected", "")), _show(sizes.get("used", "")), lines))
    return rows


def argument_rows(arguments: Any) -> list[tuple[str, str, str]]:
    """Return (key, value, origin) for every argument, groups flattened."""
    if not isinstance(arguments, Mapping):
        return []
    rows: list[tuple[str, str, str]] = []
    for key, entry in arguments.items():
        if isinstance(entry, Mapping) and "value" in entry:
            rows.append((key, str(entry["value"]), str(entry.get("origin", ""))))
        elif isinstance(entry, Mapping):
            rows.extend(argument_rows(entry))
        else:
            rows.append((key, str(entry), ""))
    return rows


def _metric_chart(name: str, points: Sequence[Point], non_finite: Mapping[str, int]) -> Chart:
    count = non_finite.get(name, 0)
    warning = f"{count} NaN or infinite" if count else ""
    if not points:
        return Chart(name, "", warning, Markup(""))
    return Chart(name, format_number(points[-1][1]), warning, draw_line(points))


def _join(kl: Sequence[Point], values: Sequence[Point]) -> list[Point]:
    """Pair each value with the KL of its step, or of the last step before it."""
    pairs, index = [], 0
    for step, value in values:
        while index + 1 < len(kl) and kl[index + 1][0] <= step:
            index += 1
        if kl[index][0] <= step:
            pairs.append((kl[index][1], value))
        elif step == 0:
            # An evaluation before training: the policy still is the reference.
            pairs.append((0.0, value))
    return pairs


def _by_prompt(samples: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], Mapping[str, Any]]:
    """Index samples by prompt and occurrence: the two answers of a preference pair share their prompt."""
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


def _show(value: Any) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return format_number(value) if is_number else str(value)
