"""What a run needs to know about a preference loss, without comparing names.

To add one, write a file like ``dpo.py``, an entry in ``trainers.registered`` and a JSON file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
        """``logps`` [2n], with gradients, are the log-probs of whole answers, preferred ones first.

        ``fields``: ``response_mask`` [2n, R], and ``reference`` [2n], the reference's log-probs, if it is needed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceAlgorithm:
    """An algorithm that trains on pairs of answers."""

    hyperparameters: type
    """A frozen dataclass whose fields are the arguments; the loss gets an instance."""
    loss: PreferenceLossFunction
    """Its metrics are ``NAME/loss`` and those of ``answers``."""
    needs_reference: Callable[[Any], bool] | None = None
    """Whether these hyperparameters need the reference. None: never, and there are no arguments about it."""
    checks: tuple[Callable[[Any], Iterable[str]], ...] = ()
    """Checks of combinations of arguments (see ``arguments.parser.Check``), in addition to those of all trainers."""
