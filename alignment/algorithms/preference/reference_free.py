"""Losses of a pair that read no reference, [n] each. Legend: see ``answers.Pairs``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.late_paddle import functional as F
from alignment.algorithms.preference.answers import Pairs, Sides
from alignment.algorithms.preference.pairwise import smoothed

if TYPE_CHECKING:
    from paddle import Tensor

_SUREST = -1e-7
"""Mean log-probs above this have no odds in float32 (the probability rounds to 1) and no gradient."""


def sft(pairs: Pairs) -> Tensor:
    """Return the cross-entropy of the preferred answers; its mean over pairs is the mean over their tokens."""
    return -pairs.chosen_sums * (pairs.counts.pairs / pairs.counts.chosen_tokens)


def simpo(pairs: Pairs, *, beta: float, simpo_gamma: float, label_smoothing: float) -> Tensor:
    """Return the logistic loss of the difference of log-probs per token, less a margin (SimPO, Meng et al. 2024)."""
    return smoothed(beta * _difference(pairs.logps) - simpo_gamma, label_smoothing)


def cpo(pairs: Pairs, *, beta: float, cpo_alpha: float, label_smoothing: float) -> Tensor:
    """Return the logistic loss of the difference of log-probs, and cross-entropy (CPO, Xu et al. 2024)."""
    return smoothed(beta * _difference(pairs.logps), label_smoothing) + cpo_alpha * sft(pairs)


def odds_ratio(pairs: Pairs) -> Tensor:
    """Return the logistic loss of the ratio of the odds of both answers, from log-probs per token."""
    return -F.log_sigmoid(_difference(Sides(*map(_log_odds, pairs.logps))))


def orpo(pairs: Pairs, *, beta: float) -> Tensor:
    """Return cross-entropy, and ``beta`` times the loss of the odds ratio (ORPO, Hong et al. 2024)."""
    return sft(pairs) + beta * odds_ratio(pairs)


def _difference(sides: Sides) -> Tensor:
    return sides.chosen - sides.rejected


def _log_odds(logps: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of log-probs."""
    logps = paddle.clip(logps, max=_SUREST)
    is_likely = logps > -math.log(2)
    small = paddle.where(is_likely, logps, paddle.full_like(logps, -1.0))
    large = paddle.where(is_likely, paddle.full_like(logps, -1.0), logps)
    return logps - paddle.where(is_likely, paddle.log(-paddle.expm1(small)), paddle.log1p(-paddle.exp(large)))
