"""An engine on the rollout ranks of a run, which gives its completions to all ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from alignment.generation.engine import Engine, GenerationOptions
from alignment.generation.fused.drafts import PreviousAnswers
from alignment.parallel.roles import RoleRanks, RoleWork, share_work
from alignment.records import Completion
from alignment.rollout.rollout_weights import RolloutWeights


class PlacedEngine:
    """An ``Engine`` that all processes of a run call alike, and that generates on the rollout ranks only."""

    def __init__(
        self,
        inner: Engine | None,
        who: RoleRanks,
        *,
        weights: RolloutWeights | None,
        previous: PreviousAnswers | None = None,
    ) -> None:
        """``inner`` generates in this process (None: it is not one of ``who``).

        ``weights`` moves the trained weights from the policy's ranks to those of ``who`` (None: they are there);
        ``previous`` records all answers on all ranks (None: nothing does).
        """
        self._previous = previous
        self._inner = inner
        self._who = who
        self._weights = weights

    @property
    def features(self) -> frozenset[str]:
        """See ``Engine.features``; empty on other ranks."""
        return frozenset() if self._inner is None else self._inner.features

    @property
    def num_replicas(self) -> int:
        """Number of processes, or groups of them, that generate different rows concurrently."""
        return self._who.layout.batch

    def load_weights(self, weights: Iterable[tuple[str, Any]] | None, version: int) -> None:
        """See ``Engine.load_weights``; ``weights`` are those this process trains. All processes call it together."""
        assert weights is not None, "weights must be given to be moved"
        if self._weights is not None:
            weights = self._weights.stream(dict(weights))
        if self._inner is not None:
            self._inner.load_weights(weights, version)
        else:
            deque(weights, maxlen=0)

    def generate(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions, *, seed: int, sequence_ids: Sequence[int]
    ) -> list[Completion]:
        """See ``Engine.generate``; the completions are the same in every process."""
        address = {"seed": seed, "sequence_ids": sequence_ids}
        found = share_work([RoleWork(self._who, partial(self._generate, prompts, options, **address))])[0]
        if self._previous is not None:
            self._previous.record(prompts, found)
        return found

    def _generate(self, *arguments: Any, **address: Any) -> list[Completion]:
        return self._inner.generate(*arguments, **address)

    def release(self) -> None:
        """See ``Engine.release``."""
        if self._inner is not None:
            self._inner.release()
