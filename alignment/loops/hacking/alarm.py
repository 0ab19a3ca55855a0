"""Watch a run for signs of reward hacking, tell each kind once, and act."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignment.loops.hacking.signs import (
    JudgedEvaluation,
    Sign,
    confirms,
    find_contradiction,
    find_signs,
    gain_of,
    least_kl,
)
from alignment.loops.hacking.windows import WINDOW, Mean, Window, read_row, summarise
from alignment.metrics import GREEDY, Metric
from alignment.telemetry import log
from alignment.telemetry.files import replace_file
from alignment.telemetry.report.run_files import HACKING_FILE

PATIENCE = 2
"""Windows in a row that must show a sign of one kind."""
NUM_QUOTED = 3
QUOTED_CHARACTERS = 160
Samples = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class HackingFinding:
    """What the alarm told: the update, what was seen, what was done about it, and answers to read."""

    step: int
    kind: str
    text: str
    action: str
    samples: tuple[dict[str, Any], ...]
    """The best-paid answers at that time; for a judge those that it likes least beside their reward."""


@dataclass(kw_only=True)
class HackingAlarm:
    """Compares each window of rollouts with the first one, and each evaluation by second judges with those before.

    It looks only at metrics that are the same in every process, so all act alike. While a second judge confirms the
    gain (it has risen beyond noise, and has not fallen since), signs in training are not told.
    """

    act: Callable[[int], str] = lambda count: ""
    """Brings about what so many findings ask for, and says what it is; a second call with the number does nothing."""
    stops: bool = False
    """Whether the first finding ends the run."""
    judges: Sequence[str] = ()
    """Names of the second judges: evaluations have ``eval/NAME`` and ``eval/NAME_std``."""
    folder: Path | None = None
    """Where findings are written for the report; None: nowhere."""
    window: list[dict[str, float]] = field(default_factory=list)
    start: Window | None = None
    latest: Window | None = None
    """The latest window after the first one."""
    in_a_row: dict[str, int] = field(default_factory=dict)
    """Windows in a row with a sign, by kind."""
    judged: dict[str, list[JudgedEvaluation]] = field(default_factory=dict)
    """Evaluations by judge."""
    findings: list[HackingFinding] = field(default_factory=list)

    def observe(self, metrics: Mapping[str, Metric], *, step: int, samples: Callable[[], Samples]) -> None:
        """Count the rollout before update ``step``; ``samples`` returns rows of it with prompt, response and score."""
        row = read_row(metrics)
        if row is None:
            return
        self.window.append(row)
        if len(self.window) < WINDOW:
            return
        now, self.window = summarise(self.window), []
        if self.start is None:
            self.start = now
            return
        self.latest = now
        signs = {} if self._is_confirmed else {sign.kind: sign for sign in find_signs(self.start, now)}
        self.in_a_row = {kind: self.in_a_row.get(kind, 0) + 1 for kind in signs}
        for kind, sign in signs.items():
            if self.in_a_row[kind] >= PATIENCE:
                self._tell(sign, step, best_paid(samples()))

    def observe_evaluation(self, metrics: Mapping[str, float], samples: Samples, *, step: int) -> None:
        """Compare the reward of an evaluation with each second judge, of its sampled and of its greedy answers.

        Rows that a judge could not score (None) count neither for the error of its mean nor as answers to read.
        """
        prefixes = [prefix for prefix in ("", GREEDY) if f"eval/{prefix}reward" in metrics]
        for name, prefix in itertools.product(self.judges, prefixes):
            judge, reward = prefix + name, f"{prefix}reward"
            rows = [row for row in samples if row.get(judge, 0.0) is not None]
            history = self.judged.setdefault(judge, [])
            history.append(
                JudgedEvaluation(
                    step=step,
                    count=_num_answers(rows, prefix),
                    reward=metrics[f"eval/{reward}"],
                    reward_std=metrics[f"eval/{reward}_std"],
                    judge=metrics[f"eval/{judge}"],
                    judge_std=metrics[f"eval/{judge}_std"],
                )
            )
            sign = find_contradiction(judge, history)
            if sign is not None:
                self._tell(sign, step, least_liked(greedy_rows(rows) if prefix else rows, judge))

    def metrics(self) -> dict[str, Metric]:
        """Return what the latest window shows; nothing before the second one."""
        if self.start is None or self.latest is None:
            return {}
        gain = gain_of(self.start, self.latest)
        found = {"hacking/gain": Metric(gain), "hacking/kinds": Metric(float(len(self.told)), "max")}
        if "kl" in self.latest:
            found["hacking/kl_ratio"] = Metric(self.latest["kl"].value / least_kl(gain))
        return found

    @property
    def has_stopped(self) -> bool:
        """Whether a finding has ended the run."""
        return self.stops and bool(self.findings)

    @property
    def told(self) -> set[str]:
        """The kinds told so far."""
        return {finding.kind for finding in self.findings}

    def allows_best(self) -> bool:
        """Tell whether an evaluation may be the best one: with a judge always, else while nothing was seen."""
        return bool(self.judges) or not (self.findings or self.in_a_row)

    def state(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "window": self.window,
            "start": self.start,
            "latest": self.latest,
            "in_a_row": self.in_a_row,
            "judged": self.judged,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the result of ``state``."""
        self.window = [dict(row) for row in state["window"]]
        self.start, self.latest = (_read_window(state[name]) for name in ("start", "latest"))
        self.in_a_row = dict(state["in_a_row"])
        self.judged = {name: [JudgedEvaluation(*one) for one in history] for name, history in state["judged"].items()}
        self.findings = [HackingFinding(**{**one, "samples": tuple(one["samples"])}) for one in state["findings"]]
        if self.findings:
            self.act(len(self.findings))

    def write(self) -> None:
        """Write the findings to the run's folder, in the main process; without findings remove an earlier run's."""
        if self.folder is None or not log.is_main():
            return
        path = self.folder / HACKING_FILE
        if self.findings:
            replace_file(path, json.dumps([asdict(finding) for finding in self.findings], indent=1))
        else:
            path.unlink(missing_ok=True)

    @property
    def _is_confirmed(self) -> bool:
        sampled = [history for name, history in self.judged.items() if name in self.judges]
        return bool(sampled) and "judge" not in self.told and all(map(confirms, sampled))

    def _tell(self, sign: Sign, step: int, samples: Samples) -> None:
        if sign.kind in self.told:
            return
        said = self.act(len(self.findings) + 1)
        rows = tuple(map(dict, samples))
        self.findings.append(HackingFinding(step=step, kind=sign.kind, text=sign.text, action=said, samples=rows))
        if log.is_main():
            quoted = "".join(f"\n  {_quote(row)}" for row in samples)
            log.warn(
                f"the reward may be hacked ({sign.kind}, update {step}): {sign.text}. {said or _ADVICE}. Answers to "
                f"read:{quoted}"
            )
        self.write()


_ADVICE = "Read the answers; on_reward_hacking=lower_lr, raise_kl or stop_at_best would act"


def best_paid(samples: Samples) -> list[Mapping[str, Any]]:
    """Return the rows with the highest scores, first the highest."""
    return sorted(samples, key=lambda row: -_number(row.get("score")))[:NUM_QUOTED]


def least_liked(samples: Samples, judge: str) -> list[Mapping[str, Any]]:
    """Return the rows whose rank by ``judge`` is furthest below their rank by score."""
    by_score, by_judge = _ranks(samples, "score"), _ranks(samples, judge)
    order = sorted(range(len(samples)), key=lambda row: by_judge[row] - by_score[row])
    return [samples[row] for row in order[:NUM_QUOTED]]


def greedy_rows(samples: Samples) -> list[dict[str, Any]]:
    """Return ``samples`` with the greedy response and its scores as those of the row."""
    return [
        {"prompt": row["prompt"], "response": row[f"{GREEDY}response"], "score": row[f"{GREEDY}reward"]}
        | {name: value for name, value in row.items() if name.startswith(GREEDY)}
        for row in samples
    ]


def _num_answers(samples: Samples, prefix: str) -> int:
    """Return the number of answers that can differ: a prompt that comes twice has one greedy answer."""
    return len({row["prompt"] for row in samples}) if prefix else len(samples)


def _ranks(samples: Samples, key: str) -> dict[int, int]:
    order = sorted(range(len(samples)), key=lambda row: _number(samples[row].get(key)))
    return {row: rank for rank, row in enumerate(order)}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("-inf")


def _quote(row: Mapping[str, Any]) -> str:
    numbers = ", ".join(f"{key} {value:.3g}" for key, value in row.items() if isinstance(value, float))
    texts = (str(row.get(key, "")).replace("\n", " ") for key in ("prompt", "response"))
    return " -> ".join(repr(t[:QUOTED_CHARACTERS] + ("..." if len(t) > QUOTED_CHARACTERS else "")) for t in texts) + (
        f" ({numbers})"
    )


def _read_window(saved: Any) -> Window | None:
    return None if saved is None else {name: Mean(*mean) for name, mean in saved.items()}
