"""What a run needs to know about a preference loss, without comparing names.

To add one, write a file like ``dpo.py``, an entry in ``trainers.registered`` and a JSON file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from alignment.records import Loss, TokenBatch

if TYPE_CHECKING:
    from paddle import Tensor

BaselineRows = Literal["mismatched", "own"]
"""mismatched: each prompt of an update with the answer to another one; own: the update's rows."""


class PreferenceLossFunction(Protocol):
    """The loss on a micro-batch of n pairs, or of n labelled answers."""

    def __call__(self, logps: Tensor, *, fields: Mapping[str, Tensor], hyperparameters: Any, denominator: Any) -> Loss:
        """``logps``, with gradients, are the log-probs of whole answers: [2n] with preferred ones first, or [n].

        ``fields``, by row of ``logps``: ``response_mask`` [rows, R], ``reference`` [rows], the reference's log-probs,
        if it is needed, and for labelled answers those of ``LabelledAnswers``. ``denominator``: ``PairCounts``, or what
        ``LabelledAnswers.count`` returns.
        """
        ...


class Survey(Protocol):
    """Measures all answers of an update before it, for a loss that compares each of them with the others."""

    def __call__(self, batches: Sequence[TokenBatch], logps: Sequence[np.ndarray], *, learns: bool) -> None:
        """Add fields to ``batches`` from the ``logps`` [2n] of each; ``learns`` (training) lets its state change."""
        ...

    def state(self) -> Any:
        """Return what it has learned as JSON values."""
        ...

    def load_state(self, state: Any) -> None:
        """Restore what ``state`` returned; CheckpointError if that is damaged."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledAnswers:
    """What an algorithm says that trains on single answers with the field ``desirable`` [n] (1 or 0)."""

    count: Callable[[Sequence[TokenBatch]], Any]
    """Computes the loss's denominator from all micro-batches of an update."""
    baseline_rows: Callable[[Any], BaselineRows | None]
    """Given the hyperparameters, the rows whose gains over the reference make the field ``baseline``. None: no field.
    """
    baseline: Callable[[np.ndarray, np.ndarray, Any], np.ndarray]
    """``baseline(gains, desirable, hyperparameters)``: from the gains [N] of those rows and the labels [N] of all rows
    of an update to the field ``baseline`` [N], which has no gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceAlgorithm:
    """An algorithm that trains on pairs of answers, or on answers with a label."""

    hyperparameters: type
    """A frozen dataclass whose fields are the arguments; the loss gets an instance."""
    loss: PreferenceLossFunction
    """Its metrics are ``NAME/loss`` and those of ``answers``."""
    needs_reference: Callable[[Any], bool] | None = None
    """Whether these hyperparameters need the reference. None: never, and there are no arguments about it."""
    splits_answers: Callable[[Any], bool] | None = None
    """Given the hyperparameters, whether ``logps`` and ``reference`` are [2n, 2]: up to the length of the shorter
    answer of each pair, and beyond it. None: never.
    """
    make_survey: Callable[[Any], Survey | None] | None = None
    """Given the hyperparameters, returns what measures a whole update before it. None: never."""
    checks: tuple[Callable[[Any], Iterable[str]], ...] = ()
    """Checks of combinations of arguments (see ``arguments.parser.Check``), in addition to those of all trainers."""
    labels: LabelledAnswers | None = None
    """None: it trains on pairs."""
