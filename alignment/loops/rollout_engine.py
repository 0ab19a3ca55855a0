"""Keep the engine's weights up to date: load them after changes, release them when the policy is offloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from alignment.device.offload import resident
from alignment.generation.engine import Engine
from alignment.models.decoder.layers import unpacked_weights
from alignment.training.learner import Learner


@dataclass(kw_only=True)
class RolloutEngine:
    """An engine and the policy it generates with."""

    engine: Engine
    policy: Learner
    _loaded: int | None = field(default=None, init=False)
    """Version of the loaded weights."""

    @contextlib.contextmanager
    def ready(self, version: int) -> Iterator[None]:
        """Provide the engine with the weights of ``version`` (updates made so far)."""
        with resident(self.policy.offloaded_model):
            if self._loaded != version:
                model = self.policy.runner.model
                base = unpacked_weights(model, dtype=model.model.dtype)
                self.engine.load_weights(chain(self.policy.kept_weights(), base), version)
                self._loaded = version
            try:
                yield
            finally:
                if self.policy.offloaded_model is not None:
                    self.engine.release()
                    self._loaded = None
