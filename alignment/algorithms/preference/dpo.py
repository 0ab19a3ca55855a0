"""Direct preference optimization (Rafailov et al. 2023) and its relatives: the losses of ``losses.LOSSES``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from alignment.algorithms.preference.answers import PairCounts, reward_metrics, side_metrics
from alignment.algorithms.preference.combined import (
    CHECKS,
    combined_loss,
    reads_reference,
    splits_answers,
    whole_answers,
)
from alignment.algorithms.preference.losses import LossType, readers
from alignment.algorithms.preference.spec import PreferenceAlgorithm
from alignment.algorithms.preference.survey import make_survey
from alignment.algorithms.preference.terms import TermHyperparameters, answer_cross_entropy
from alignment.fields import Case, argument, refused
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


def _unless_read(hyperparameter: str) -> Case:
    """Return the case that no loss of the run reads ``hyperparameter``."""
    return _unless(*readers(hyperparameter))


def _unless(*names: str) -> Case:
    """Return the case that the run has none of the losses ``names``."""
    when = f"loss_type has none of {', '.join(names)}" if len(names) > 1 else f"loss_type is not {names[0]}"
    return Case(lambda value, s: value is not None and not set(names) & set(s.values["loss_type"]), when, when)


@dataclass(frozen=True, kw_only=True)
class DPOHyperparameters(TermHyperparameters):
    """Hyperparameters of DPO."""

    beta: float = argument(0.1, above=0)
    """Scale of the implicit rewards; a larger value keeps the policy closer to the reference model."""
    loss_type: tuple[LossType, ...] = argument(("sigmoid",), keeps_repeats=True, spellings={"aot_pair": "aot"})
    """The loss of a pair, or several losses; sigmoid is that of DPO. docs/how-to/preferences.md lists all."""
    loss_weights: tuple[float, ...] | None = argument(None, above=0, keeps_repeats=True)
    """Weight of each loss of loss_type; needed if there are several."""
    label_smoothing: float = argument(0.0, minimum=0, below=0.5, inert_when=_unless_read("label_smoothing"))
    """Share of pairs whose labels are assumed to be wrong (with sigmoid: cDPO)."""
    simpo_gamma: float = argument(0.5, inert_when=_unless_read("simpo_gamma"))
    """Margin by which simpo separates the scaled log-probs."""
    cpo_alpha: float = argument(1.0, minimum=0, inert_when=_unless_read("cpo_alpha"))
    """Weight of the cross-entropy of the preferred answers in cpo."""
    dpop_lambda: float = argument(50.0, minimum=0, inert_when=_unless_read("dpop_lambda"))
    """Weight of the penalty in dpop."""
    discopop_tau: float = argument(0.05, above=0, inert_when=_unless_read("discopop_tau"))
    """Temperature of the blend in discopop."""
    bco_threshold: Literal["running", "zero"] = argument("running", inert_when=_unless("bco_pair"))
    """Gain from which bco_pair calls an answer good: the mean of all answers so far, or 0 (as in TRL 1.16)."""
    average_logps: bool | None = None
    """Compare log-probs per token (true) or of whole answers (false); null: as the loss is defined. ipo: per token
    in TRL and PaddleNLP, false as in OpenRLHF."""
    ld_alpha: float | None = argument(None, minimum=0, maximum=1)
    """Weight of the log-probs beyond the length of the shorter answer of a pair (LD-DPO); null: 1, in one sum."""
    reference_free: bool = False
    """Compare with a uniform reference; no reference model is loaded."""
    normalize_logps: bool = False
    """Compare both answers of a pair as if they had its mean length (PaddleNLP)."""

    choose_type: str = refused("max_min", "of a row with several scored answers the best and the worst are the pair")
    """Which answers of a row make its pair (RLHFlow's max_min: the best and the worst)."""
    ignore_eos_token: bool = refused(False, "the end token is part of the answer")
    """Leave the end token out of the loss."""


def dpo_loss(
    logps: Tensor, *, fields: Mapping[str, Tensor], hyperparameters: DPOHyperparameters, denominator: PairCounts
) -> Loss:
    """Return the loss on ``logps`` [2n], the log-probs of whole answers, preferred ones first; with ``ld_alpha`` in two
    parts (see ``PreferenceAlgorithm``).

    ``fields``: ``reference`` [2n], those of the reference model if it is needed, ``response_mask`` [2n, R], ``margin``
    [n] if it is used, and what a survey added. Metrics: ``dpo/loss`` (of several losses also ``dpo/loss/NAME``),
    ``dpo/sft_loss`` (if it has a weight), ``rewards/`` (beta times the gain over the reference), ``logps/``, and with a
    reference ``kl/``.
    """
    compares = reads_reference(hyperparameters)
    whole = whole_answers(logps, hyperparameters)
    reference = whole_answers(fields["reference"], hyperparameters) if compares else 0
    lengths = fields["response_mask"].sum(axis=-1)
    combined = combined_loss(logps, whole, fields=fields, hyperparameters=hyperparameters, counts=denominator)
    value = hyperparameters.pref_loss_ratio * combined.value
    parts = combined.parts if len(combined.parts) > 1 else {}
    metrics = {
        "dpo/loss": Metric(combined.value.detach()),
        **{f"dpo/loss/{name}": Metric(part.detach()) for name, part in parts.items()},
        **reward_metrics(hyperparameters.beta * combined.gains, pairs=denominator.pairs),
        **side_metrics("logps", whole, pairs=denominator.pairs),
        **(side_metrics("kl", whole - reference, pairs=denominator.pairs) if compares else {}),
    }
    weight, sft = answer_cross_entropy(whole, lengths, hyperparameters=hyperparameters, counts=denominator)
    if weight:
        value = value + weight * sft
        metrics["dpo/sft_loss"] = Metric(sft.detach())
    return Loss(value, metrics)


DPO = PreferenceAlgorithm(
    hyperparameters=DPOHyperparameters,
    loss=dpo_loss,
    needs_reference=reads_reference,
    splits_answers=splits_answers,
    make_survey=make_survey,
    checks=CHECKS,
)
