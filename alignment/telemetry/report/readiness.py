"""Judge from held-out rows whether a reward model should be trusted for PPO: accuracy, calibration, biases."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignment.telemetry.files import replace_file
from alignment.telemetry.plots import CalibrationBins, bin_calibration

FILE = "readiness.json"
FEWEST = 30
"""Groups of fewer pairs are shown, and decide nothing."""
_SMALLEST = 1e-12
"""Variances below this are rounding errors."""
LOW_ACCURACY, LARGE_GAP, LARGE_ERROR, LARGE_CORRELATION = 0.6, 0.1, 0.1, 0.5


class OtherTemplate(NamedTuple):
    """Some of the pairs, as they are and rendered with another template."""

    name: str
    as_they_are: np.ndarray
    """[n] bool, True: ranked right."""
    rendered: np.ndarray
    """[n] bool, True: ranked right when rendered with the other template."""


class JudgedPairs(NamedTuple):
    """The scores of B held-out pairs, and what else is known of them."""

    margins: np.ndarray
    """[B] score of the better minus that of the worse answer (of costs the other way round)."""
    extra_length: np.ndarray
    """[B] tokens of the better answer minus those of the worse one."""
    subsets: Sequence[str] = ()
    """[B] or empty: the dataset of each pair."""
    given_margins: np.ndarray | None = None
    """[B] or None: by how much the better answer is better, as the rows say."""
    train_accuracy: float | None = None
    other_template: OtherTemplate | None = None
    """None: it was not measured."""
    first_share: float | None = None
    """Mean probability of the answer shown first, over both orders; None: answers are not shown together."""


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """A verdict with its reasons and the numbers behind it."""

    trust: str
    """``yes``, ``with care`` or ``no``."""
    reasons: tuple[str, ...]
    tables: tuple[dict[str, Any], ...]
    """Each has ``title``, ``columns`` and ``rows``."""

    @property
    def line(self) -> str:
        """The verdict in one line."""
        said = {"yes": "can be trusted", "with care": "can be trusted with care", "no": "should not be trusted"}
        because = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return f"the reward model {said[self.trust]} for PPO{because}"

    def save(self, folder: Path) -> None:
        """Write ``readiness.json`` into ``folder``."""
        replace_file(folder / FILE, json.dumps({"line": self.line, **asdict(self)}, indent=1))


def judge_pairs(pairs: JudgedPairs) -> Readiness:
    """Return the readiness of a model that ranks pairs."""
    right = np.asarray(pairs.margins) > 0
    calibration = bin_calibration(pairs.margins)
    groups = pair_groups(pairs)
    doubts = [*_length_doubts(right, pairs), *_other_doubts(right, pairs, calibration.expected_error)]
    refusals = _refusals(right, groups)
    trust = "no" if refusals else "with care" if doubts else "yes"
    shares = [*share_rows(right, groups), *template_rows(pairs.other_template, len(right))]
    if pairs.first_share is not None:
        shares.append([f"(the answer shown first gets {pairs.first_share:.3f} of the probability)", None, None, None])
    tables = (
        {"title": "Accuracy", "columns": ["pairs of", "pairs", "accuracy", "95 % interval"], "rows": shares},
        calibration_table(calibration, "pairs"),
    )
    return Readiness(trust=trust, reasons=(*refusals, *doubts), tables=tables)


def share_rows(right: np.ndarray, groups: Sequence[tuple[str, np.ndarray]]) -> list[list[Any]]:
    """Return [name, count, share, interval] of what is ``right`` [B] bool in each of ``groups`` (name, [B] bool)."""
    return [[name, int(members.sum()), _share(right[members]), _interval(right[members])] for name, members in groups]


def calibration_table(bins: CalibrationBins, what: str) -> dict[str, Any]:
    """Return the table of ``bins`` of ``what`` (pairs, steps)."""
    rows = [
        [
            f"{bins.edges[i]:.2f} to {bins.edges[i + 1]:.2f}",
            int(count),
            round(float(bins.confidence[i]), 3),
            round(float(bins.accuracy[i]), 3),
        ]
        for i, count in enumerate(bins.counts)
        if count
    ]
    columns = ["confidence", what, "mean confidence", "accuracy"]
    return {"title": f"Calibration (error {bins.expected_error:.3f})", "columns": columns, "rows": rows}


def wrong_groups(right: np.ndarray, groups: Sequence[tuple[str, np.ndarray]]) -> list[tuple[str, float]]:
    """Return (name, accuracy) of the groups of at least ``FEWEST`` in which surely less than half is ``right``."""
    large = [(name, right[members]) for name, members in groups if members.sum() >= FEWEST]
    return [(name, float(part.mean())) for name, part in large if wilson(part)[1] < 0.5]


def memorised(known: float | None, held_out: float, what: str = "accuracy") -> list[str]:
    """Return the doubt about a figure that is much better on trained rows (``known``) than on ``held_out`` ones."""
    if known is None or known - held_out <= LARGE_GAP:
        return []
    return [f"it memorises ({what} {known:.3f} in training, {held_out:.3f} on held-out rows)"]


def template_doubts(other: OtherTemplate | None) -> list[str]:
    """Return the doubt about a model that another template makes much worse."""
    if other is None or other.as_they_are.mean() - other.rendered.mean() <= LARGE_GAP:
        return []
    lower = f"accuracy {other.rendered.mean():.3f} with {other.name}"
    return [f"it depends on its template ({lower}): score with the same one"]


def pearson(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return the correlation of two [n] arrays; None if one of them is constant or has fewer than 2 numbers."""
    if len(first) < 2 or min(first.var(), second.var()) < _SMALLEST:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def length_doubts(name: str, predicted: float | None, given: float | None) -> list[str]:
    """Return the doubt about scores that follow the length of answers (correlation ``predicted``) more than what they
    stand for does (``given``).
    """
    shown = [np.nan if found is None else found for found in (predicted, given)]
    if not (abs(shown[0]) > LARGE_CORRELATION and abs(shown[0]) - abs(np.nan_to_num(shown[1])) > LARGE_GAP):
        return []
    return [f"{name} follows the length of answers ({shown[0]:+.2f}, the given values {shown[1]:+.2f})"]


def pair_groups(pairs: JudgedPairs) -> list[tuple[str, np.ndarray]]:
    """Return (name, [B] bool) of the groups whose accuracy is shown."""
    extra = np.asarray(pairs.extra_length)
    groups = [("all", np.ones(len(extra), bool))]
    labels = np.asarray(pairs.subsets)
    names = list(dict.fromkeys(pairs.subsets))
    groups += [(f"dataset {name}", labels == name) for name in names if len(names) > 1]
    if pairs.given_margins is not None:
        given = np.asarray(pairs.given_margins)
        edges = np.quantile(given, [0, 1 / 3, 2 / 3, 1])
        for i, name in enumerate(("small", "middle", "large")):
            above = given >= edges[i] if i == 0 else given > edges[i]
            groups.append((f"{name} given margin (to {edges[i + 1]:g})", above & (given <= edges[i + 1])))
    groups += [("better answer longer", extra > 0), ("equally long", extra == 0), ("better answer shorter", extra < 0)]
    return [(name, members) for name, members in groups if members.any()]


def _refusals(right: np.ndarray, groups: Sequence[tuple[str, np.ndarray]]) -> list[str]:
    low, _ = wilson(right)
    if low <= 0.5:
        return [f"its accuracy {right.mean():.3f} on {len(right)} pairs is not surely better than guessing"]
    reasons = [f"its accuracy is only {right.mean():.3f}"] if right.mean() < LOW_ACCURACY else []
    wrong = wrong_groups(right, groups)
    return [*reasons, *(f"it ranks pairs of {name} the wrong way round (accuracy {part:.3f})" for name, part in wrong)]


def _length_doubts(right: np.ndarray, pairs: JudgedPairs) -> list[str]:
    extra = np.asarray(pairs.extra_length)
    longer, shorter = right[extra > 0], right[extra < 0]
    if min(len(longer), len(shorter)) < FEWEST:
        return []
    first, last = (longer, shorter) if longer.mean() > shorter.mean() else (shorter, longer)
    if first.mean() - last.mean() <= LARGE_GAP or wilson(last)[1] >= wilson(first)[0]:
        return []
    what = "longer" if first is longer else "shorter"
    return [
        f"it prefers {what} answers (accuracy {longer.mean():.3f} where the better answer is longer, "
        f"{shorter.mean():.3f} where it is shorter)"
    ]


def _other_doubts(right: np.ndarray, pairs: JudgedPairs, error: float) -> list[str]:
    doubts = []
    if error > LARGE_ERROR:
        doubts.append(f"its margins are no probabilities (calibration error {error:.3f})")
    doubts += [*memorised(pairs.train_accuracy, right.mean()), *template_doubts(pairs.other_template)]
    if pairs.first_share is not None and abs(pairs.first_share - 0.5) > LARGE_GAP:
        doubts.append(
            f"it likes one place: the answer shown first gets {pairs.first_share:.3f} of the probability, whichever it "
            "is (both orders are averaged, but less is left to tell answers apart)"
        )
    return doubts


def template_rows(other: OtherTemplate | None, count: int) -> list[list[Any]]:
    """Return the rows about another template; some of ``count`` pairs (or steps) are also shown as they are."""
    if other is None:
        return [["rendered with another template: not measured (see the log)", None, None, None]]
    measured = len(other.rendered)
    which = "all" if measured == count else f"{measured} of them"
    found = [] if measured == count else [(f"{which}, as they are", other.as_they_are)]
    found.append((f"{which}, rendered with the template {other.name}", other.rendered))
    return [[name, measured, _share(right), _interval(right)] for name, right in found]


def _share(right: np.ndarray) -> float:
    return round(float(right.mean()), 4)


def _interval(right: np.ndarray) -> str:
    return "{:.3f} to {:.3f}".format(*wilson(right))


def wilson(right: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z, n = 1.959964, len(right)
    centre = (right.mean() + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(right.mean() * (1 - right.mean()) / n + z * z / (4 * n * n))
    return centre - half, centre + half
