"""Judge from held-out answers whether a model that predicts attributes should be trusted for PPO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from alignment.telemetry.report.readiness import (
    LARGE_CORRELATION,
    LARGE_GAP,
    JudgedPairs,
    Readiness,
    length_doubts,
    memorised,
    pair_groups,
    pearson,
    share_rows,
    wrong_groups,
)

LARGE_MISFIT = 0.25
"""In standard deviations of the given values."""
NUM_BINS = 5
_ALMOST_ONE = 1 - 1e-12
"""A correlation whose Fisher transform is finite."""


class OtherCorrelation(NamedTuple):
    """The correlation of the same answers as they are, and rendered with another template."""

    name: str
    as_they_are: float | None
    rendered: float | None


class JudgedAttribute(NamedTuple):
    """An attribute of n held-out answers."""

    name: str
    predicted: np.ndarray
    """[n]"""
    given: np.ndarray
    """[n] NaN: missing."""
    lengths: np.ndarray
    """[n] tokens of the answers."""
    subsets: Sequence[str] = ()
    """[n] or empty: the dataset of each answer."""
    train_correlation: float | None = None
    other_template: OtherCorrelation | None = None
    """None: it was not measured."""

    @property
    def correlation(self) -> float | None:
        """That of predicted with given values; None: it cannot be computed."""
        return pearson_of_known(self.predicted, self.given)

    @property
    def count(self) -> int:
        """The answers whose given value is known."""
        return int((~np.isnan(self.given)).sum())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of ``correlation``."""
        return fisher(self.correlation or 0.0, self.count)

    def of_length(self) -> tuple[float | None, float | None]:
        """Return the correlations of the predicted and of the given values with the length."""
        return pearson(self.predicted, self.lengths), pearson_of_known(self.lengths, self.given)


def judge_attributes(attributes: Sequence[JudgedAttribute]) -> Readiness:
    """Return the readiness of a model that predicts ``attributes``."""
    low = [one.name for one in attributes if (one.correlation or 0.0) < LARGE_CORRELATION]
    unsure = [one for one in attributes if one.name not in low and one.interval[0] <= 0]
    weak = [*low, *(one.name for one in unsure)]
    doubts, shares, bins = [], [], []
    for one in attributes:
        misfit, rows = fit(one.predicted, one.given)
        bins += [[one.name, *row] for row in rows]
        right, groups = _ranked(one)
        shares += [[f"{one.name}: {name}", *row] for name, *row in share_rows(right, groups)]
        doubts += _doubts(one, misfit, wrong_groups(right, groups))
    reasons = [f"predicted badly (correlation below {LARGE_CORRELATION:g}): {', '.join(low)}"] if low else []
    reasons += [
        f"{one.name}: its correlation {one.correlation:.3f} on {one.count} answers is not surely better than guessing"
        for one in unsure
    ]
    trust = "no" if len(weak) == len(attributes) else "with care" if weak or doubts else "yes"
    tables = (
        {"title": "Attributes on held-out answers", "columns": _COLUMNS, "rows": [_row(one) for one in attributes]},
        {"title": "Accuracy", "columns": ["pairs of", "pairs", "accuracy", "95 % interval"], "rows": shares},
        {"title": "Calibration", "columns": ["attribute", "answers", "mean predicted", "mean given"], "rows": bins},
    )
    return Readiness(trust=trust, reasons=(*reasons, *doubts), tables=tables)


def pearson_of_known(numbers: np.ndarray, given: np.ndarray) -> float | None:
    """Return the correlation of ``numbers`` [n] with the ``given`` values [n] that are known (not NaN); see
    ``pearson``.
    """
    known = ~np.isnan(given)
    return pearson(numbers[known], given[known])


def fisher(correlation: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a correlation of ``count`` pairs of numbers (Fisher 1921); of 3 it can be any."""
    if count <= 3:
        return -1.0, 1.0
    centre = math.atanh(max(-_ALMOST_ONE, min(_ALMOST_ONE, correlation)))
    half = 1.959964 / math.sqrt(count - 3)
    return math.tanh(centre - half), math.tanh(centre + half)


def fit(predicted: np.ndarray, given: np.ndarray) -> tuple[float, list[list[Any]]]:
    """Return (how far mean given values are from the predictions, in their standard deviations, rows): over bins of
    equally many answers with about the same prediction.
    """
    known = ~np.isnan(given)
    order = np.argsort(predicted[known], kind="stable")
    parts = [part for part in np.array_split(order, NUM_BINS) if len(part)]
    means = [(len(part), predicted[known][part].mean(), given[known][part].mean()) for part in parts]
    spread = given[known].std() if known.any() else 0.0
    off = sum(count * abs(one - other) for count, one, other in means) / max(1, known.sum())
    rows = [[count, round(float(one), 3), round(float(other), 3)] for count, one, other in means]
    return (float(off / spread) if spread > 0 else 0.0), rows


def _ranked(one: JudgedAttribute) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """Return (whether the order of two answers is predicted right [B], groups of these pairs).

    A pair is two neighbouring answers of one dataset with different given values; each answer is in one pair at most.
    """
    first = np.arange(0, len(one.given) - 1, 2)
    margins = one.given[first] - one.given[first + 1]
    same = np.array([not one.subsets or one.subsets[i] == one.subsets[i + 1] for i in first], bool)
    kept = same & ~np.isnan(margins) & (margins != 0)
    first, signs = first[kept], np.sign(margins[kept])
    pairs = JudgedPairs(
        margins=signs * (one.predicted[first] - one.predicted[first + 1]),
        extra_length=signs * (one.lengths[first] - one.lengths[first + 1]),
        subsets=[one.subsets[i] for i in first] if one.subsets else (),
        given_margins=np.abs(margins[kept]) if kept.any() else None,
    )
    return pairs.margins > 0, pair_groups(pairs)


def _doubts(one: JudgedAttribute, misfit: float, wrong: Sequence[tuple[str, float]]) -> list[str]:
    """Return what speaks against trusting an attribute."""
    doubts = length_doubts(one.name, *one.of_length())
    doubts += [f"{one.name}: pairs of {name} are ranked the wrong way round ({part:.3f})" for name, part in wrong]
    if misfit > LARGE_MISFIT:
        doubts.append(f"{one.name}: predictions are off by {misfit:.2f} standard deviations where they are alike")
    doubts += [
        f"{one.name}: {said}" for said in memorised(one.train_correlation, one.correlation or 0.0, "correlation")
    ]
    other = one.other_template
    if other is not None and (other.as_they_are or 0.0) - (other.rendered or 0.0) > LARGE_GAP:
        lower = f"correlation {other.rendered or 0.0:.3f} with {other.name}, {other.as_they_are:.3f} as they are"
        doubts.append(f"{one.name} depends on its template ({lower}): score with the same one")
    return doubts


_COLUMNS = [
    *("attribute", "correlation with the given values", "95 % interval", "answers"),
    *("with the length", "given values with the length"),
    *("correlation in training", "some as they are", "the same in another template"),
]


def _row(one: JudgedAttribute) -> list[Any]:
    other = one.other_template
    rendered = (None, None) if other is None else (other.as_they_are, other.rendered)
    numbers = (one.correlation, *one.of_length(), one.train_correlation, *rendered)
    first, *others = (None if number is None else round(number, 3) for number in numbers)
    interval = None if first is None else "{:.3f} to {:.3f}".format(*one.interval)
    return [one.name, first, interval, one.count, *others]
