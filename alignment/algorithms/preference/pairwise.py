"""Losses of a pair that need only its own log-probs and the reference's, [n] each. Legend: see ``answers.Pairs``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.late_paddle import functional as F
from alignment.algorithms.preference.answers import Pairs

if TYPE_CHECKING:
    from paddle import Tensor


def smoothed(scaled: Tensor, label_smoothing: float) -> Tensor:
    """Return the cross-entropy [n] of labels of which the share ``label_smoothing`` is wrong."""
    return -(1 - label_smoothing) * F.log_sigmoid(scaled) - label_smoothing * F.log_sigmoid(-scaled)


def sigmoid(pairs: Pairs, *, beta: float, label_smoothing: float) -> Tensor:
    """Return the loss of DPO (Rafailov et al. 2023), with label smoothing that of cDPO (Mitchell 2023)."""
    return smoothed(beta * pairs.gap - pairs.margin, label_smoothing)


def robust(pairs: Pairs, *, beta: float, label_smoothing: float) -> Tensor:
    """Return the loss of robust DPO (Chowdhury et al. 2024), unbiased if that share of the labels is flipped."""
    scaled = beta * pairs.gap - pairs.margin
    clean, flipped = -F.log_sigmoid(scaled), -F.log_sigmoid(-scaled)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def ipo(pairs: Pairs, *, beta: float) -> Tensor:
    """Return the squared distance of the gap from 1 / (2 beta) (Azar et al. 2023)."""
    return (pairs.gap - 1 / (2 * beta)) ** 2


def hinge(pairs: Pairs, *, beta: float) -> Tensor:
    """Return what the scaled gap lacks to 1 (SLiC, Zhao et al. 2023)."""
    return F.relu(1 + pairs.margin - beta * pairs.gap)


def exo_pair(pairs: Pairs, *, beta: float, label_smoothing: float) -> Tensor:
    """Return the reverse KL from labels smoothed by more than 0 (EXO, Ji et al. 2024, eq. 16)."""
    scaled = beta * pairs.gap
    win, lose = F.log_sigmoid(scaled), F.log_sigmoid(-scaled)
    return win.exp() * (win - math.log1p(-label_smoothing)) + lose.exp() * (lose - math.log(label_smoothing))


def discopop(pairs: Pairs, *, beta: float, discopop_tau: float) -> Tensor:
    """Return a blend of the logistic and the exponential loss (DiscoPOP, Lu et al. 2024, eq. 5)."""
    scaled = beta * pairs.gap
    share = F.sigmoid(scaled / discopop_tau)
    return -F.log_sigmoid(scaled) * (1 - share) + paddle.exp(-scaled) * share


def dpop(pairs: Pairs, *, beta: float, dpop_lambda: float) -> Tensor:
    """Return DPO's loss with a penalty where a preferred answer is less likely than under the reference.

    (DPO-positive, Pal et al. 2024.)
    """
    lost = F.relu(-pairs.gains.chosen)
    return -F.log_sigmoid(beta * (pairs.gap - dpop_lambda * lost))


def nca_pair(pairs: Pairs, *, beta: float) -> Tensor:
    """Return the noise contrastive loss of both answers (NCA, Chen et al. 2024)."""
    chosen, rejected = beta * pairs.gains.chosen, beta * pairs.gains.rejected
    return -F.log_sigmoid(chosen) - 0.5 * F.log_sigmoid(-chosen) - 0.5 * F.log_sigmoid(-rejected)


def sppo_hard(pairs: Pairs, *, beta: float) -> Tensor:
    """Return squared distances of the gains from 1 / (2 beta) and its negative (SPPO, Wu et al. 2024, hard labels)."""
    target = 0.5 / beta
    return (pairs.gains.chosen - target) ** 2 + (pairs.gains.rejected + target) ** 2


def apo_zero(pairs: Pairs, *, beta: float) -> Tensor:
    """Return the loss that makes preferred answers likelier and others less likely (APO, D'Oosterlinck et al. 2024)."""
    return 1 - F.sigmoid(beta * pairs.gains.chosen) + F.sigmoid(beta * pairs.gains.rejected)


def apo_down(pairs: Pairs, *, beta: float) -> Tensor:
    """Return the loss that makes both answers less likely, the rejected one more so (APO)."""
    return F.sigmoid(beta * pairs.gains.chosen) + 1 - F.sigmoid(beta * pairs.gap)
