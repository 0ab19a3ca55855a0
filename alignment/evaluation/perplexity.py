"""Perplexity from the log-probs of rows, and the windows in which long rows are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignment.evaluation.intervals import IntervalEstimate, bootstrap, bootstrap_mean

LARGEST_LOSS = 700.0
"""exp of larger numbers overflows float64."""


class RowWindow(NamedTuple):
    """A part of a row that is read at once."""

    start: int
    end: int
    first: int
    """The first position whose token is counted; the tokens before it are only context."""


class Perplexity(NamedTuple):
    """Perplexity of a set of rows."""

    of_tokens: IntervalEstimate
    """exp of the mean loss of all tokens: a long row counts more."""
    of_rows: IntervalEstimate
    """The mean of the perplexities of the rows: each row counts once."""
    loss: IntervalEstimate
    """Mean loss in nats per token."""


def windows(length: int, *, longest: int, stride: int) -> list[RowWindow]:
    """Return windows of at most ``longest`` tokens over a row, whose starts are ``stride`` apart, in which every token
    but the row's first is counted once, after the first window with ``longest - stride`` tokens of context or more.

    >>> windows(7, longest=4, stride=2)
    [RowWindow(start=0, end=4, first=1), RowWindow(start=2, end=6, first=4), RowWindow(start=4, end=7, first=6)]
    """
    assert 1 <= stride < longest, (stride, longest)
    found = [RowWindow(0, min(longest, length), 1)]
    while found[-1].end < length:
        start, counted = found[-1].start + stride, found[-1].end
        found.append(RowWindow(start, min(start + longest, length), counted))
    return found


def perplexity(losses: Sequence[float], num_tokens: Sequence[int], confidence: float = 0.95) -> Perplexity:
    """Return the perplexities of rows with the summed ``losses`` (nats) of their ``num_tokens`` counted tokens.

    Intervals are bootstrapped over rows.
    """
    rows = np.stack([np.asarray(losses, np.float64), np.asarray(num_tokens, np.float64)], axis=1)
    loss = bootstrap([rows], lambda strata: strata[0][:, 0].sum() / strata[0][:, 1].sum(), confidence)
    each = [_exp(total / count) for total, count in rows]
    ends = [None if end is None else _exp(end) for end in (loss.low, loss.high)]
    of_tokens = IntervalEstimate(_exp(loss.value), ends[0], ends[1], loss.count)
    return Perplexity(of_tokens, bootstrap_mean(each, confidence), loss)


def _exp(loss: float) -> float:
    return math.exp(min(loss, LARGEST_LOSS))
