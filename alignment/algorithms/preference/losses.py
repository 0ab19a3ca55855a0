"""The table of preference losses: what each computes, which hyperparameters it reads, and on which log-probs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from alignment.algorithms.preference import pairwise, reference_free, update_losses
from alignment.algorithms.preference.answers import Pairs
from alignment.algorithms.preference.update_losses import SurveyedAnswers

if TYPE_CHECKING:
    from paddle import Tensor


@dataclass(frozen=True, slots=True)
class PreferenceLoss:
    """One value of ``loss_type``."""

    formula: Callable[..., Tensor]
    """Returns the loss [n] of ``Pairs``."""
    reads: tuple[str, ...] = ()
    """Hyperparameters that are passed to the formula by name."""
    is_per_token: bool = False
    """Whether it reads log-probs per token by default."""
    needs_reference: bool = True
    has_cross_entropy: bool = False
    """Whether it contains the cross-entropy of the preferred answers."""
    has_margin: bool = False
    """Whether it reads the margin of each pair."""
    measure: Callable[[SurveyedAnswers], np.ndarray] | None = None
    """What it compares each answer of the whole update with, [2, N] (None: its own pair is enough)."""
    keeps_mean: bool = False
    """Whether it may compare each answer with the mean of all answers so far."""

    def __call__(self, pairs: Pairs, hyperparameters: Any) -> Tensor:
        """Return the loss [n]."""
        return self.formula(pairs, **{name: getattr(hyperparameters, name) for name in self.reads})


_SMOOTHED = ("beta", "label_smoothing")

LOSSES: dict[str, PreferenceLoss] = {
    "sigmoid": PreferenceLoss(pairwise.sigmoid, _SMOOTHED, has_margin=True),
    "sigmoid_norm": PreferenceLoss(pairwise.sigmoid, _SMOOTHED, is_per_token=True, has_margin=True),
    "robust": PreferenceLoss(pairwise.robust, _SMOOTHED, has_margin=True),
    "ipo": PreferenceLoss(pairwise.ipo, ("beta",), is_per_token=True),
    "hinge": PreferenceLoss(pairwise.hinge, ("beta",), has_margin=True),
    "exo_pair": PreferenceLoss(pairwise.exo_pair, _SMOOTHED),
    "nca_pair": PreferenceLoss(pairwise.nca_pair, ("beta",)),
    "sppo_hard": PreferenceLoss(pairwise.sppo_hard, ("beta",)),
    "apo_zero": PreferenceLoss(pairwise.apo_zero, ("beta",)),
    "apo_down": PreferenceLoss(pairwise.apo_down, ("beta",)),
    "discopop": PreferenceLoss(pairwise.discopop, ("beta", "discopop_tau")),
    "dpop": PreferenceLoss(pairwise.dpop, ("beta", "dpop_lambda")),
    "aot": PreferenceLoss(update_losses.aot, _SMOOTHED, measure=update_losses.measure_aot),
    "aot_unpaired": PreferenceLoss(update_losses.aot_unpaired, _SMOOTHED, measure=update_losses.measure_aot_unpaired),
    "kto_pair": PreferenceLoss(update_losses.kto_pair, ("beta",), measure=update_losses.measure_kto_pair),
    "bco_pair": PreferenceLoss(update_losses.bco_pair, ("beta",), keeps_mean=True),
    "simpo": PreferenceLoss(
        reference_free.simpo, ("beta", "simpo_gamma", "label_smoothing"), is_per_token=True, needs_reference=False
    ),
    "cpo": PreferenceLoss(
        reference_free.cpo, ("beta", "cpo_alpha", "label_smoothing"), needs_reference=False, has_cross_entropy=True
    ),
    "orpo": PreferenceLoss(
        reference_free.orpo, ("beta",), is_per_token=True, needs_reference=False, has_cross_entropy=True
    ),
    "or": PreferenceLoss(reference_free.odds_ratio, is_per_token=True, needs_reference=False),
    "sft": PreferenceLoss(reference_free.sft, needs_reference=False, has_cross_entropy=True),
}
"""``loss_type`` to loss; the names are those of TRL and PaddleNLP."""

LossType = Literal[tuple(LOSSES)]


def readers(hyperparameter: str) -> tuple[str, ...]:
    """Return the losses that read ``hyperparameter``."""
    return tuple(name for name, loss in LOSSES.items() if hyperparameter in loss.reads)
