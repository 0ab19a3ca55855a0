"""What a run needs to know of a loss on preferred and rejected answers; it never asks for its name.

To add one: a file like ``dpo.py``, one row in ``trainers.registered`` and a JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from alignment.algorithms.preference.answers import PairCounts
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor


class PreferenceLossFunction(Protocol):
    """The loss on a micro-batch of n pairs."""

    def __call__(
        self, logps: Tensor, *, fields: Mapping[str, Tensor], hyperparameters: Any, denominator: PairCounts
    ) -> Loss:
        """``logps`` [2n], with gradients, are the log-probs of whole answers, all preferred ones first.

        ``fields``: ``response_mask`` [2n, R]; where the reference is needed, ``reference`` [2n], the same of it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceAlgorithm:
    """An algorithm that learns from pairs of answers."""

    hyperparameters: type
    """A frozen dataclass, whose fields are the arguments; the loss gets an instance."""
    loss: PreferenceLossFunction
    """Its metrics are ``NAME/loss`` and those of ``answers``."""
    needs_reference: Callable[[Any], bool] | None = None
    """Hyperparameters to whether the reference is loaded. None: never, and there are no arguments about one."""
