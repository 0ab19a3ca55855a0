"""Normalise rewards by the run's mean and variance, for reward sources without their own statistics."""

from __future__ import annotations

import numpy as np


class RunningRewardNormalizer:
    """Running moments in float64 (Welford 1962), merged batch by batch (Chan et al. 1979).

    Each batch updates the statistics before it is normalised, so the first batch is normalised too.
    """

    def __init__(self) -> None:
        self.mean, self.squares, self.count = 0.0, 0.0, 0

    def __call__(self, rewards: np.ndarray) -> np.ndarray:
        """Update the statistics with ``rewards`` [N] and return float32 (rewards - mean) / (std + 1e-8).

        Without rewards the statistics stay.
        """
        batch = rewards.astype(np.float64)
        if not batch.size:
            return batch.astype(np.float32)
        total = self.count + batch.size
        delta = batch.mean() - self.mean
        self.squares += batch.var() * batch.size + delta**2 * self.count * batch.size / total
        self.mean += delta * batch.size / total
        self.count = total
        std = np.sqrt(self.squares / max(1, self.count - 1))
        return ((batch - self.mean) / (std + 1e-8)).astype(np.float32)

    def state(self) -> list[float]:
        """Return [mean, sum of squared deviations, count]."""
        return [self.mean, self.squares, self.count]

    def load_state(self, state: list[float]) -> None:
        """Restore what ``state`` returned."""
        self.mean, self.squares, self.count = float(state[0]), float(state[1]), int(state[2])
