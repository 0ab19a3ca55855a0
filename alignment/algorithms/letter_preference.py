"""A pairwise preference model: a language model that names the better of two answers by a letter.

Legend: n comparisons; every pair is compared in both orders, so that a liking for one place cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.algorithms.late_paddle import functional as F
from alignment.algorithms.supervised_losses import cross_entropy
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


def letter_loss(
    output: Tensor, *, fields: Mapping[str, Tensor], hyperparameters: Any, denominator: float | Tensor
) -> Loss:
    """Return the cross-entropy of the right letter over the whole vocabulary, averaged over ``denominator``.

    ``output`` [n, 2] are the log-probs of the right and of the wrong letter; ``is_first`` [n] in ``fields`` is 1 where
    the right letter is that of the first answer. Metrics: ``pairwise/loss``, ``pairwise/accuracy`` (a tie is wrong),
    ``pairwise/first_share`` (the probability of the first answer among both letters, 0.5 without position bias).
    """
    loss = cross_entropy(output[:, 0], denominator=denominator).value
    ahead, is_first = (output[:, 0] - output[:, 1]).detach(), fields["is_first"]
    first = F.sigmoid(ahead * (2 * is_first - 1))
    return Loss(
        loss,
        {
            "pairwise/loss": Metric(loss.detach()),
            "pairwise/accuracy": Metric((ahead > 0).astype(ahead.dtype).sum() / denominator),
            "pairwise/first_share": Metric(first.sum() / denominator),
        },
    )


def preference_logits(ahead: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Return the logit [n] float64 of P, the probability that an answer is better, averaged over both orders.

    ``ahead`` [n]: the log-prob of the first letter minus that of the second, with the answer first; ``behind`` [n]: the
    same with the answer second. P = (sigmoid(ahead) + sigmoid(-behind)) / 2.
    """
    ahead, behind = np.asarray(ahead, np.float64), np.asarray(behind, np.float64)
    better = np.logaddexp(log_sigmoid(ahead), log_sigmoid(-behind))
    return better - np.logaddexp(log_sigmoid(-ahead), log_sigmoid(behind))


def win_rates(ahead: np.ndarray) -> np.ndarray:
    """Return the mean probability [k] float64 of each of k >= 2 answers to be better than one of the others.

    ``ahead`` [k, k]: at [i, j] the log-prob of the first letter minus that of the second with answer i first and j
    second; the diagonal is not used. The rates of a group sum to k / 2.
    """
    size = len(ahead)
    chances = np.exp(log_sigmoid(np.asarray(ahead, np.float64)))
    wins = (chances + 1 - chances.T) / 2
    np.fill_diagonal(wins, 0)
    return wins.sum(axis=1) / (size - 1)


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    """Return log(1 / (1 + exp(-x)))."""
    return -np.logaddexp(0, -x)
