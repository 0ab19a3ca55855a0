"""Direct preference optimization (Rafailov et al. 2023) and its relatives: the losses of ``losses.LOSSES``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paddle import Tensor

from alignment.algorithms.preference.answers import PairCounts, Pairs, by_side, reward_metrics, side_metrics
from alignment.algorithms.preference.losses import LOSSES, LossType, readers
from alignment.algorithms.preference.spec import PreferenceAlgorithm
from alignment.fields import Case, argument, refused, unless
from alignment.metrics import Metric
from alignment.records import Loss


def _unless_read(hyperparameter: str) -> Case:
    return unless("loss_type", *readers(hyperparameter))


@dataclass(frozen=True, kw_only=True)
class DPOHyperparameters:
    """Hyperparameters of DPO."""

    beta: float = argument(0.1, above=0)
    """Scale of the implicit rewards; a larger value keeps the policy closer to the reference model."""
    loss_type: LossType = "sigmoid"
    """The loss of a pair; sigmoid is that of DPO. docs/how-to/preferences.md lists all with their papers."""
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
    average_logps: bool | None = None
    """Compare log-probs per token (true) or of whole answers (false); null: as the loss is defined. ipo: per token
    in TRL and PaddleNLP, false as in OpenRLHF."""
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
    ignore_eos_token: bool = refused(False, "the end token is part of the answer")
    """Leave the end token out of the loss."""


def needs_reference(hyperparameters: DPOHyperparameters) -> bool:
    """Tell whether the loss reads the reference's log-probs."""
    return not hyperparameters.reference_free and LOSSES[hyperparameters.loss_type].needs_reference


def check_losses(v: Any) -> Iterator[str]:
    """Check (see ``arguments.parser.Check``) that the loss can use what is given."""
    if v.loss_type == "exo_pair" and v.label_smoothing == 0:
        yield "loss_type=exo_pair needs label_smoothing above 0 (for example 0.001): it takes its logarithm"


def check_reference(v: Any) -> Iterator[str]:
    """Check that nothing is said of a reference that no loss reads."""
    if LOSSES[v.loss_type].needs_reference:
        return
    for key in ("ref_model_name_or_path", "precompute_ref_logprobs"):
        if getattr(v, key):
            yield f"{key}={getattr(v, key)} is refused: loss_type={v.loss_type} reads no reference; leave the key out"


def dpo_loss(
    logps: Tensor, *, fields: Mapping[str, Tensor], hyperparameters: DPOHyperparameters, denominator: PairCounts
) -> Loss:
    """Return the loss on ``logps`` [2n], the log-probs of whole answers, preferred ones first.

    ``fields``: ``reference`` [2n], those of the reference model if it is needed, and ``response_mask`` [2n, R].
    Metrics: ``dpo/loss``, ``dpo/sft_loss`` (if it has a weight), ``rewards/`` (beta times the gain over the reference)
    and ``logps/``.
    """
    loss = LOSSES[hyperparameters.loss_type]
    gains = logps - fields["reference"] if needs_reference(hyperparameters) else logps
    read, is_per_token = logps, hyperparameters.average_logps
    if loss.is_per_token if is_per_token is None else is_per_token:
        lengths = fields["response_mask"].sum(axis=-1)
        read, gains = logps / lengths, gains / lengths
    pairs = Pairs(logps=by_side(read), gains=by_side(gains), chosen_sums=by_side(logps).chosen, counts=denominator)
    preference = loss(pairs, hyperparameters).sum() / denominator.pairs
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


DPO = PreferenceAlgorithm(
    hyperparameters=DPOHyperparameters,
    loss=dpo_loss,
    needs_reference=needs_reference,
    checks=(check_losses, check_reference),
)
