"""An engine that generates with the merged weights of a policy with an adapter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from alignment.architecture.adapter import Adapter
from alignment.generation.engine import Engine, GenerationOptions
from alignment.models.adapters.merge import merge_stream
from alignment.records import Completion


class MergingEngine:
    """An ``Engine`` that is given the weights of base and adapter, in the layout of ``inner``, and loads their sum.

    An engine that packs its weights needs no memory for this beyond one matrix; the eager engine holds the merged
    matrices beside the base.
    """

    def __init__(self, inner: Engine, adapter: Adapter) -> None:
        self.inner = inner
        self._adapter = adapter

    @property
    def features(self) -> frozenset[str]:
        """See ``Engine.features``."""
        return self.inner.features

    def load_weights(self, weights: Iterable[tuple[str, Any]] | None, version: int) -> None:
        """See ``Engine.load_weights``; the weights must be given."""
        assert weights is not None, "weights must be given to be merged"
        self.inner.load_weights(merge_stream(weights, self._adapter), version)

    def generate(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions, *, seed: int, sequence_ids: Sequence[int]
    ) -> list[Completion]:
        """See ``Engine.generate``."""
        return self.inner.generate(prompts, options, seed=seed, sequence_ids=sequence_ids)

    def release(self) -> None:
        """See ``Engine.release``."""
        self.inner.release()
