"""Routing replay: a trained model gives tokens to the experts that a rollout gave them to.

Rollout and training choose by the same weights, but a near tie may be decided by rounding, and another expert gives
other numbers altogether. Only the choice is replayed: the weights of the experts are those of the model's own router,
which so gets its gradient (Ma et al. 2025, "Stabilizing MoE Reinforcement Learning by Aligning Training and Inference
Routers", there called R3).

Legend: M tokens, L layers, k experts a token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import paddle

from alignment.parallel.comms.group import ALONE, Group
from alignment.records import NO_EXPERT


class ExpertReplay:
    """Makes a decoder replay the choices of its batches, and counts how many its own routers make otherwise."""

    def __init__(self, world: Group = ALONE) -> None:
        """``world``: all processes that hold parts of the model."""
        self.is_filler = False
        """Whether the rows of the next pass count for nothing (``parallel.shares``)."""
        self._world = world
        self._compared = self._differing = 0

    def clear(self) -> None:
        """Count from now on."""
        self._compared = self._differing = 0

    def mismatch(self) -> float | None:
        """Return the share of choices that differ, over all processes; None: none were compared. All call it."""
        counts = paddle.to_tensor([self._differing, self._compared], "float64")
        differing, compared = self._world.sum_(counts, "choices of experts").tolist()
        return differing / compared if compared else None

    def count(self, own: np.ndarray, recorded: np.ndarray, known: np.ndarray) -> None:
        """Compare choices [M, k] of the ``known`` tokens [M], in any order."""
        differs = (np.sort(own, axis=1) != np.sort(recorded, axis=1)).any(axis=1)
        self._compared += int(known.sum())
        self._differing += int((differs & known).sum())


@dataclass(frozen=True, slots=True)
class RecordedRoutes:
    """The choices of the tokens of a pass."""

    experts: np.ndarray
    """[M, L, k], ``NO_EXPERT`` where none was recorded."""
    replay: ExpertReplay | None
    """Counts them; None: this pass is not counted."""

    @classmethod
    def of(cls, recorded: np.ndarray, cells: np.ndarray, replay: ExpertReplay) -> RecordedRoutes:
        """Return those of the tokens that stand in ``cells`` [M] of the flattened rows ``recorded`` [n, S, L, k]."""
        experts = recorded.reshape(-1, *recorded.shape[2:])[cells]
        # Training passes may be repeated (recomputation), and come after an update.
        counts = not paddle.is_grad_enabled() and not replay.is_filler
        return cls(experts, replay if counts else None)

    def at(self, rows: paddle.Tensor) -> RecordedRoutes:
        """Return those of ``rows`` [T] of the M."""
        return replace(self, experts=self.experts[rows.numpy()])

    def choose(self, layer: int, own: paddle.Tensor) -> paddle.Tensor:
        """Return the experts [M, k] int64 of each token in ``layer``, the router's ``own`` where none were recorded."""
        recorded = self.experts[:, layer]
        known = recorded[:, 0] != NO_EXPERT[recorded.dtype.name]
        chosen = own.numpy()
        if self.replay is not None:
            self.replay.count(chosen, recorded, known)
        return paddle.to_tensor(np.where(known[:, None], recorded.astype(np.int64), chosen))
