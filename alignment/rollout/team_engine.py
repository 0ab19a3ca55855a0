"""An engine that splits prompts over the rollout replicas and gathers the completions on every process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from alignment.architecture.parts import even_cut
from alignment.generation.engine import Engine, GenerationOptions
from alignment.generation.fused.drafts import PreviousAnswers
from alignment.generation.prompt_checks import check_prompts
from alignment.parallel.comms.group import Group
from alignment.parallel.comms.together import everywhere
from alignment.records import Completion
from alignment.rollout.rollout_weights import RolloutWeights


class TeamEngine:
    """An ``Engine`` that all processes call with the same prompts; each replica completes its share of them.

    An error in one replica is raised in all, with the same message.
    """

    def __init__(
        self,
        inner: Engine,
        replicas: Group,
        *,
        config: Any,
        weights: RolloutWeights | None = None,
        previous: PreviousAnswers | None = None,
    ) -> None:
        """``inner`` generates in this process's replica, whose number is this process's index in ``replicas``.

        ``config`` is the model's DecoderConfig; ``weights`` moves the trained weights into the layout of ``inner``
        (None: they are already in it); ``previous`` records the answers of all replicas (None: nothing does).
        """
        self._inner = inner
        self._previous = previous
        self._replicas = replicas
        self._config = config
        self._weights = weights

    @property
    def features(self) -> frozenset[str]:
        """See ``Engine.features``."""
        return self._inner.features

    @property
    def num_replicas(self) -> int:
        """Number of replicas."""
        return self._replicas.size

    def load_weights(self, weights: Iterable[tuple[str, Any]] | None, version: int) -> None:
        """See ``Engine.load_weights``; ``weights`` are those this process trains, and all processes call it together.

        None: the model's own, if the rollout uses the training layout.
        """
        if self._weights is not None:
            assert weights is not None, "weights must be given to change their layout"
            weights = self._weights.stream(dict(weights))
        self._inner.load_weights(weights, version)

    def generate(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions, *, seed: int, sequence_ids: Sequence[int]
    ) -> list[Completion]:
        """See ``Engine.generate``; the completions are the same in every process."""
        # Before splitting, so that messages number the prompts among all.
        check_prompts([np.asarray(prompt, np.int64) for prompt in prompts], options, self._config)
        share = slice(*even_cut(len(prompts), self._replicas.size, self._replicas.index))

        def work() -> list[Completion]:
            mine = prompts[share]
            return self._inner.generate(mine, options, seed=seed, sequence_ids=sequence_ids[share]) if len(mine) else []

        completions = everywhere(self._replicas, work)
        gathered = self._replicas.gather_objects(completions, "completions")
        found = [completion for part in gathered for completion in part]
        if self._previous is not None:
            self._previous.record(prompts, found)
        return found

    def release(self) -> None:
        """See ``Engine.release``."""
        self._inner.release()
