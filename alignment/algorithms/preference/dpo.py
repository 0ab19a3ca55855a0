"""Direct preference optimization (Rafailov et al. 2023), with label smoothing (cDPO), and IPO (Azar et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from alignment.algorithms.preference.answers import PairCounts, by_side, reward_metrics, side_metrics
from alignment.algorithms.preference.spec import PreferenceAlgorithm
from alignment.fields import argument, inert, refused, unless
from alignment.metrics import Metric
from alignment.records import Loss


@dataclass(frozen=True, kw_only=True)
class DPOHyperparameters:
    """Hyperparameters of DPO."""

    beta: float = argument(0.1, above=0)
    """Scale of the implicit rewards; a larger value keeps the policy closer to the reference model."""
    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    """sigmoid: the loss of DPO; ipo: the squared distance of the gap from 1 / (2 beta)."""
    label_smoothing: float = argument(0.0, minimum=0, below=0.5, inert_when=unless("loss_type", "sigmoid"))
    """Share of pairs whose labels are assumed to be wrong (cDPO)."""
    average_logps: bool = False
    """Compare log-probs per token instead of those of whole answers (as TRL's ipo and sigmoid_norm do)."""
    reference_free: bool = False
    """Compare with a uniform reference; no reference model is loaded."""
    pref_loss_ratio: float = argument(1.0, minimum=0)
    """Weight of the preference loss."""
    sft_loss_ratio: float = argument(0.0, minimum=0)
    """Weight of the cross-entropy of the preferred answers (a mean over tokens), which keeps them likely."""

    normalize_logps: bool = refused(False, "average_logps=true divides by the length of each answer")
    """Scale log-probs by lengths as PaddleNLP does."""
    offset_alpha: float = refused(0.0, "scores of answers are not read")
    """Weight of score differences in the gap."""
    ref_model_update_steps: int = refused(-1, "the reference stays fixed; ref_model_name_or_path names it")
    """Updates between copies of the policy to the reference."""
    ignore_eos_token: bool = refused(False, "the end token is part of the answer")
    """Leave the end token out of the loss."""
    simpo_gamma: float = inert(0.5, "loss_type simpo is not built")
    """Margin of simpo."""
    dpop_lambda: float = inert(50.0, "loss_type dpop is not built")
    """Penalty of dpop."""


def _sigmoid(gap: Tensor, hyperparameters: DPOHyperparameters) -> Tensor:
    scaled, smoothing = hyperparameters.beta * gap, hyperparameters.label_smoothing
    return -(1 - smoothing) * F.log_sigmoid(scaled) - smoothing * F.log_sigmoid(-scaled)


def _ipo(gap: Tensor, hyperparameters: DPOHyperparameters) -> Tensor:
    return (gap - 1 / (2 * hyperparameters.beta)) ** 2


LOSSES: dict[str, Callable[[Tensor, DPOHyperparameters], Tensor]] = {"sigmoid": _sigmoid, "ipo": _ipo}
"""``loss_type`` to the loss [n] of the gaps [n] (gain over the reference of the chosen minus the rejected answer)."""


def needs_reference(hyperparameters: DPOHyperparameters) -> bool:
    """Tell whether the loss reads the reference's log-probs."""
    return not hyperparameters.reference_free


def dpo_loss(
    logps: Tensor, *, fields: Mapping[str, Tensor], hyperparameters: DPOHyperparameters, denominator: PairCounts
) -> Loss:
    """Return the loss on ``logps`` [2n], the log-probs of whole answers, preferred ones first.

    ``fields``: ``reference`` [2n], those of the reference model (not read with ``reference_free``), and
    ``response_mask`` [2n, R]. Metrics: ``dpo/loss``, ``dpo/sft_loss`` (if it has a weight), ``rewards/`` (beta times
    the gain over the reference) and ``logps/``.
    """
    reference = paddle.zeros_like(logps) if hyperparameters.reference_free else fields["reference"]
    gains = logps - reference
    if hyperparameters.average_logps:
        gains = gains / fields["response_mask"].sum(axis=-1)
    chosen, rejected = by_side(gains)
    preference = LOSSES[hyperparameters.loss_type](chosen - rejected, hyperparameters).sum() / denominator.pairs
    value = hyperparameters.pref_loss_ratio * preference
    metrics = {
        "dpo/loss": Metric(preference.detach()),
        **reward_metrics(hyperparameters.beta * gains, pairs=denominator.pairs),
        **side_metrics("logps", logps, pairs=denominator.pairs),
    }
    if hyperparameters.sft_loss_ratio:
        sft = -by_side(logps).chosen.sum() / denominator.chosen_tokens
        value = value + hyperparameters.sft_loss_ratio * sft
        metrics["dpo/sft_loss"] = Metric(sft.detach())
    return Loss(value, metrics)


DPO = PreferenceAlgorithm(hyperparameters=DPOHyperparameters, loss=dpo_loss, needs_reference=needs_reference)
