"""An exponential moving average of a learner's weights, in float32 and in host memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from alignment.architecture.adapter import is_trained_with_adapter
from alignment.architecture.parts import Part
from alignment.device.offload import resident
from alignment.training.learner import Learner

AVERAGE_FOLDER = "policy_ema"
"""The name of the policy's average in runs and checkpoints."""
_FIELD = "average"


class WeightAverage:
    """average <- beta * average + (1 - beta) * weight, after each update; it starts as the weights.

    Each process averages the parts that it holds, so the result is that of a single process. With an adapter only what
    is trained is averaged. ``arrays`` are the averages by canonical name.
    """

    def __init__(self, learner: Learner, *, beta: float) -> None:
        self.learner = learner
        self._beta = np.float32(beta)
        model = learner.runner.model
        names = {name for name in self._parts() if model.adapter is None or is_trained_with_adapter(name)}
        with resident(learner.offloaded_model):
            held = ((name, weight) for name, weight in learner.kept_weights() if name in names)
            self.arrays = {name: np.array(weight.astype("float32").numpy()) for name, weight in held}

    def follow(self) -> None:
        """Move towards the learner's present weights."""
        with resident(self.learner.offloaded_model):
            for name, weight in self.learner.kept_weights():
                average = self.arrays.get(name)
                if average is not None:
                    average *= self._beta
                    average += (np.float32(1) - self._beta) * weight.astype("float32").numpy()

    def state(self) -> dict[str, np.ndarray]:
        """Return the averages for a checkpoint."""
        return {f"{name}/{_FIELD}": array for name, array in self.arrays.items()}

    def state_parts(self) -> dict[str, Part]:
        """Return the parts of the whole tensors that the averages are, by name."""
        parts = self._parts()
        return {name: parts[name] for name in self.arrays}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what ``state`` returned."""
        assert {key.rpartition("/")[0] for key in state} == set(self.arrays), "the averages are of other weights"
        for key, value in state.items():
            self.arrays[key.rpartition("/")[0]] = np.array(value)

    def _parts(self) -> Mapping[str, Part]:
        return self.learner.kept_parts() or self.learner.runner.model.parts
