"""Kahneman-Tversky optimization (Ethayarajh et al. 2024, equations 7 and 8): single answers labelled good or bad.

The convention is TRL's: a mean over all rows, log-probs of whole answers, a weight for each label. Legend: n rows of a
micro-batch, N rows of an update.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from alignment.algorithms import late_paddle as paddle
from alignment.algorithms.late_paddle import functional as F
from alignment.algorithms.preference.spec import BaselineRows, LabelledAnswers, PreferenceAlgorithm
from alignment.fields import argument
from alignment.metrics import Metric
from alignment.records import Loss, TokenBatch

if TYPE_CHECKING:
    from paddle import Tensor

DESIRABLE = "desirable"
"""Batch field [n] float32: 1 for a good answer, 0 for a bad one."""


class LabelCounts(NamedTuple):
    """Totals over all micro-batches of an update: the denominators of losses and metrics."""

    desirable: int
    undesirable: int

    @property
    def rows(self) -> int:
        """All rows."""
        return self.desirable + self.undesirable


@dataclass(frozen=True, kw_only=True)
class KTOHyperparameters:
    """Hyperparameters of KTO."""

    beta: float = argument(0.1, above=0)
    """Scale of the implicit rewards; a larger value keeps the policy closer to the reference model."""
    loss_type: Literal["kto", "apo_zero_unpaired", "vanilla"] = "kto"
    """kto: rewards count from the KL to the reference, measured on answers to other prompts; apo_zero_unpaired: they
    count from 0; vanilla: from the mean gain of the answers with the other label (OpenRLHF's form for equal halves).
    """
    desirable_weight: float = argument(1.0, minimum=0, aliases=("desirable_loss_weight",))
    """Weight of the loss of desirable answers."""
    undesirable_weight: float = argument(1.0, minimum=0, aliases=("undesirable_loss_weight",))
    """Weight of the loss of undesirable answers."""


def count_labels(batches: Sequence[TokenBatch]) -> LabelCounts:
    """Return the numbers of desirable and undesirable rows in all micro-batches of an update."""
    labels = np.concatenate([batch.fields[DESIRABLE] for batch in batches])
    desirable = int(labels.sum())
    return LabelCounts(desirable, len(labels) - desirable)


def kto_baseline_rows(hyperparameters: KTOHyperparameters) -> BaselineRows | None:
    """Return which rows' gains the baseline is made of."""
    rows: dict[str, BaselineRows | None] = {"kto": "mismatched", "vanilla": "own", "apo_zero_unpaired": None}
    return rows[hyperparameters.loss_type]


def kto_baseline(gains: np.ndarray, labels: np.ndarray, hyperparameters: KTOHyperparameters) -> np.ndarray:
    """Return the gain [N] from which each row's reward counts, never negative; it has no gradient.

    ``gains`` [N]: log-probs of the policy minus those of the reference, of the rows that ``kto_baseline_rows`` names.
    kto: their mean, an estimate of the KL, for every row. vanilla: for a good answer the mean over the bad ones, for a
    bad answer that over the good ones (0 where there is none).
    """
    if hyperparameters.loss_type == "kto":
        return np.full(len(gains), max(0.0, gains.mean(dtype=np.float64)), np.float32)
    is_good = labels > 0
    good, bad = (max(0.0, gains[side].sum(dtype=np.float64) / max(1, side.sum())) for side in (is_good, ~is_good))
    return np.where(is_good, bad, good).astype(np.float32)


def kto_loss(
    logps: Tensor, *, fields: Mapping[str, Tensor], hyperparameters: KTOHyperparameters, denominator: LabelCounts
) -> Loss:
    """Return the loss on ``logps`` [n], the log-probs of whole answers.

    ``fields``: ``desirable`` and ``reference`` [n], and ``baseline`` [n] unless the loss has none. Metrics:
    ``kto/loss``, ``kto/kl`` (the mean baseline, nats per answer), and ``rewards/`` (beta times the gain over the
    reference) and ``logps/``, whose means are each over the rows of one label.
    """
    labels, gains = fields[DESIRABLE], logps - fields["reference"]
    has_baseline = kto_baseline_rows(hyperparameters) is not None
    baseline = fields["baseline"] if has_baseline else paddle.zeros_like(gains)
    signs = 2 * labels - 1
    good, bad = hyperparameters.desirable_weight, hyperparameters.undesirable_weight
    losses = 1 - F.sigmoid(hyperparameters.beta * signs * (gains - baseline))
    value = ((good * labels + bad * (1 - labels)) * losses).sum() / denominator.rows
    rewards = _by_label("rewards", hyperparameters.beta * gains, labels, denominator)
    metrics = {
        "kto/loss": Metric(value.detach()),
        **rewards,
        **_by_label("logps", logps, labels, denominator),
    }
    if len(rewards) == 2:
        metrics["rewards/margins"] = Metric(rewards["rewards/chosen"].value - rewards["rewards/rejected"].value)
    if has_baseline:
        metrics["kto/kl"] = Metric(baseline.sum() / denominator.rows)
    return Loss(value, metrics)


def _by_label(prefix: str, rows: Tensor, labels: Tensor, counts: LabelCounts) -> dict[str, Metric]:
    """Return the means of ``rows`` [n] over desirable and over undesirable rows; a label without rows has none."""
    sides = (("chosen", labels, counts.desirable), ("rejected", 1 - labels, counts.undesirable))
    return {f"{prefix}/{name}": Metric((rows.detach() * side).sum() / count) for name, side, count in sides if count}


def check_weights(v: Any) -> Iterator[str]:
    """Check (see ``arguments.parser.Check``) that something is trained."""
    if v.desirable_weight == v.undesirable_weight == 0:
        yield "desirable_weight=0 and undesirable_weight=0 train nothing; one of them must be above 0"


KTO = PreferenceAlgorithm(
    hyperparameters=KTOHyperparameters,
    loss=kto_loss,
    needs_reference=lambda hyperparameters: True,
    checks=(check_weights,),
    labels=LabelledAnswers(count=count_labels, baseline_rows=kto_baseline_rows, baseline=kto_baseline),
)
