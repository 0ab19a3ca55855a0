"""Metrics: values and how they are combined over micro-batches and ranks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

GREEDY = "greedy_"
"""Begins the names of what an evaluation says of greedy answers beside the sampled ones, in metrics and samples."""
REDUCTIONS = ("sum", "max", "min", "last")


def evaluated_name(name: str) -> str:
    """Return what an evaluation calls a metric that is named as ``eval/NAME``, ``eval_NAME`` or ``NAME``: ``NAME``."""
    return name.removeprefix("eval/").removeprefix("eval_")


class Metric(NamedTuple):
    """A number of one micro-batch.

    A ``sum`` value is already divided by a global denominator (all micro-batches, all ranks), so parts simply add up:
    two micro-batches with 3 and 1 of 8 tokens clipped report 3/8 and 1/8, which give a clip fraction of 0.5.
    """

    value: Any
    """A Python float, or anything ``float()`` reads (numpy scalar, paddle scalar)."""
    reduction: str = "sum"
    """``sum``, ``max``, ``min``, or ``last``: the value of the latest update, such as a learning rate."""


def reduce_metrics(parts: Sequence[Mapping[str, Metric]]) -> dict[str, float]:
    """Combine the metrics of all micro-batches by name; a name may be absent from some parts.

    NaN survives every reduction; Python's ``max`` and ``min`` could hide it, depending on the order.
    """
    return {name: metric.value for name, metric in merge_metrics(parts).items()}


def merge_metrics(parts: Sequence[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Like ``reduce_metrics``, but keep the reductions, so that the results can be combined further."""
    collected: dict[str, tuple[str, list[float]]] = {}
    for part in parts:
        for name, metric in part.items():
            reduction, values = collected.setdefault(name, (metric.reduction, []))
            assert metric.reduction == reduction, f"metric {name!r} is reduced by {reduction} and {metric.reduction}"
            values.append(float(metric.value))
    return {name: Metric(_reduce(reduction, values), reduction) for name, (reduction, values) in collected.items()}


def average_metrics(parts: Sequence[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Combine updates or iterations: means of ``sum`` metrics over the parts that have them, extremes or the latest of
    the others.
    """
    counts = Counter(name for part in parts for name in part)
    shares = [
        {n: m._replace(value=float(m.value) / counts[n]) if m.reduction == "sum" else m for n, m in part.items()}
        for part in parts
    ]
    return merge_metrics(shares)


def _reduce(reduction: str, values: list[float]) -> float:
    assert reduction in REDUCTIONS, f"unknown reduction {reduction!r} (allowed: {', '.join(REDUCTIONS)})"
    if any(math.isnan(value) for value in values):
        return math.nan
    return {"sum": sum, "max": max, "min": min, "last": lambda parts: parts[-1]}[reduction](values)
