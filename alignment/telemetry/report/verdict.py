"""The first card of a report: whether the rise of the reward is believed by the second judges and the alarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alignment.metrics import GREEDY
from alignment.telemetry.report.charts import EVALUATION, Series, show
from alignment.telemetry.report.curves import finite_points
from alignment.telemetry.report.explanations import HACKING
from alignment.telemetry.report.metric_rows import Card

REWARD = "reward"
_SPREAD = "_std"
_ABOUT = (
    "What second judges (eval_reward), which are never trained on, and the alarm say about the reward. Without them a "
    "higher reward alone proves nothing."
)


def verdict_cards(series: Series, findings: Any) -> list[Card]:
    """Return the card of a run with second judges or findings; none where nobody but the reward judged."""
    signs = [f"{one['kind']} since update {one['step']}" for one in readable_findings(findings)]
    doubts = [*signs, *(said for said, is_doubt in _judgements(series) if is_doubt)]
    backed = [said for said, is_doubt in _judgements(series) if not is_doubt]
    if doubts:
        return [Card(HACKING, _ABOUT, f"No: {'; '.join(doubts)}", "", "; ".join(backed))]
    return [Card(HACKING, _ABOUT, f"Yes: {'; '.join(backed)}", "", "")] if backed else []


def readable_findings(findings: Any) -> list[Mapping[str, Any]]:
    """Return the findings of ``hacking.json``; none where it has another form."""
    fields = {"step": int, "kind": str, "text": str, "action": str, "samples": list}
    rows: Sequence[Any] = findings if isinstance(findings, list) else ()
    return [
        row
        for row in rows
        if isinstance(row, dict) and all(isinstance(row.get(name), kind) for name, kind in fields.items())
    ]


def _judgements(series: Series) -> list[tuple[str, bool]]:
    """Return what each second judge says of a reward that has risen, and whether that is a doubt."""
    return [said for prefix in ("", GREEDY) for said in _judgements_of(series, f"{EVALUATION}{prefix}")]


def _judgements_of(series: Series, prefix: str) -> list[tuple[str, bool]]:
    """Return what the judges say of the answers whose metrics begin with ``prefix``."""
    reward = _ends(series, f"{prefix}{REWARD}")
    if reward is None or reward[1] <= reward[0]:
        return []
    ends = {name: _ends(series, name) for name in _judges(series, prefix)}
    return [_judgement(name, pair, reward) for name, pair in ends.items() if pair is not None]


def _judgement(name: str, judge: tuple[float, float], reward: tuple[float, float]) -> tuple[str, bool]:
    is_doubt = judge[1] <= judge[0]
    verb = "did not rise" if is_doubt else "rose"
    more = f"while the reward rose ({show(reward[0])} to {show(reward[1])})" if is_doubt else "with the reward"
    return f"{name.removeprefix(EVALUATION)} {verb} ({show(judge[0])} to {show(judge[1])}) {more}", is_doubt


def _judges(series: Series, prefix: str) -> list[str]:
    """Return the metrics of second judges with ``prefix``: each has a mean and a spread, as the reward has."""
    names = [name for name in series if name.startswith(prefix) and f"{name}{_SPREAD}" in series]
    of_greedy = f"{EVALUATION}{GREEDY}"
    return [name for name in names if name != f"{prefix}{REWARD}" and (prefix == of_greedy or of_greedy not in name)]


def _ends(series: Series, name: str) -> tuple[float, float] | None:
    points = finite_points(series.get(name, ()))
    return (points[0][1], points[-1][1]) if len(points) > 1 else None
