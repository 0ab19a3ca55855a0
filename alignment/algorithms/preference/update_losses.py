"""Losses that compare an answer with numbers of the whole update, and how these are measured (see ``survey``).

Legend: N pairs of an update; the losses are of the n pairs of a micro-batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from alignment.algorithms.late_paddle import functional as F
from alignment.algorithms.preference.answers import Pairs
from alignment.algorithms.preference.pairwise import smoothed

if TYPE_CHECKING:
    from paddle import Tensor


class SurveyedAnswers(NamedTuple):
    """All answers of an update as a loss reads them, [2, N] each: preferred ones, then the others."""

    logps: np.ndarray
    reference: np.ndarray

    @property
    def gains(self) -> np.ndarray:
        """[2, N], what the policy's log-probs gained over the reference's."""
        return self.logps - self.reference


def measure_aot(answers: SurveyedAnswers) -> np.ndarray:
    """Return [2, N], twice the quantile of the reference's ratios at the rank of each pair's ratio."""
    ratios, reference = (both[0] - both[1] for both in answers)
    return np.stack([_at_rank(ratios, reference)] * 2)


def aot(pairs: Pairs, *, beta: float, label_smoothing: float) -> Tensor:
    """Return the loss of quantiles: ratios of the policy against those of the reference (AOT, Melnyk et al. 2024)."""
    ratio = pairs.logps.chosen - pairs.logps.rejected
    return smoothed(beta * (ratio - pairs.measured.chosen), label_smoothing)


def measure_aot_unpaired(answers: SurveyedAnswers) -> np.ndarray:
    """Return [2, N], the quantile of the other side's gains at the rank of each answer's gain."""
    chosen, rejected = answers.gains
    return np.stack([_at_rank(chosen, rejected), _at_rank(rejected, chosen)])


def aot_unpaired(pairs: Pairs, *, beta: float, label_smoothing: float) -> Tensor:
    """Return the loss of quantiles of the gains: preferred answers against all others (AOT).

    A quantile has two answers, which may be in different micro-batches. The preferred one counts its loss; both have
    their gradient.
    """
    value = smoothed(beta * (pairs.gains.chosen - pairs.measured.chosen), label_smoothing)
    others = smoothed(beta * (pairs.measured.rejected - pairs.gains.rejected), label_smoothing)
    return value + (others - others.detach())


def measure_kto_pair(answers: SurveyedAnswers) -> np.ndarray:
    """Return [2, N], the mean gain of the other side, at least 0."""
    chosen, rejected = answers.gains.mean(axis=1).clip(min=0)
    return np.broadcast_to([[rejected], [chosen]], answers.logps.shape)


def kto_pair(pairs: Pairs, *, beta: float) -> Tensor:
    """Return the mean of KTO's losses of both answers, each against the other side's mean (Ethayarajh et al. 2024)."""
    chosen = pairs.gains.chosen - pairs.measured.chosen
    rejected = pairs.measured.rejected - pairs.gains.rejected
    return 1 - 0.5 * (F.sigmoid(beta * chosen) + F.sigmoid(beta * rejected))


def bco_pair(pairs: Pairs, *, beta: float) -> Tensor:
    """Return the loss of a classifier of both answers (BCO, Jung et al. 2024); its threshold is measured, or 0."""
    chosen, rejected = pairs.gains
    if pairs.measured is not None:
        chosen, rejected = chosen - pairs.measured.chosen, rejected - pairs.measured.rejected
    return -F.log_sigmoid(beta * chosen) - F.log_sigmoid(-beta * rejected)


def _at_rank(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return [N], for each of ``values`` the one of ``others`` that has its rank (equal values: in their order)."""
    found = np.empty_like(others)
    found[np.argsort(values, kind="stable")] = np.sort(others)
    return found
