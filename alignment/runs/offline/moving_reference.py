"""A reference that follows the policy: every so many updates its weights become the policy's, or a mixture of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle

from alignment.arguments.keys.reference_model import Movement
from alignment.device.offload import resident
from alignment.errors import ArgumentError
from alignment.models.folders.saving import WeightSource, save_model
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.topology import Topology
from alignment.runs.placed import LaidOutModel
from alignment.training.learner import Learner

REFERENCE = "reference"
"""Its folder in checkpoints."""


@dataclass(frozen=True, kw_only=True)
class MovingReference:
    """The reference model of a run, and how it follows the policy. All processes call every method."""

    placed: LaidOutModel
    movement: Movement
    tokenizer: Tokenizer
    topology: Topology

    @paddle.no_grad()
    def follow(self, learner: Learner) -> None:
        """Move the weights if the learner's number of updates is a multiple of the steps between moves."""
        if learner.num_updates % self.movement.steps:
            return
        with resident(self.placed.offloaded, learner.offloaded_model):
            own = dict(self.placed.kept())
            for name, weight in learner.kept_weights():
                paddle.assign(self._mixed(weight, own[name]), own[name])

    def _mixed(self, weight: paddle.Tensor, own: paddle.Tensor) -> paddle.Tensor:
        share = self.movement.share
        if share == 1:
            return weight
        return (share * weight.astype("float32") + (1 - share) * own.astype("float32")).astype(own.dtype)

    def write(self, folder: Path) -> None:
        """Write the model to ``folder`` for a checkpoint; any layout can read it."""
        weights = WeightSource(tensors=dict(self.placed.kept()), parts=self.placed.parts, topology=self.topology)
        with resident(self.placed.offloaded):
            save_model(folder, self.placed.runner.model, self.tokenizer, weights=weights)


def check_same_shapes(reference: Any, policy: Any, place: str) -> None:
    """Refuse a ``reference`` (in ``place``) that cannot take over the weights of ``policy``."""
    own, other = ({name: tuple(p.shape) for name, p in model.named_parameters()} for model in (reference, policy))
    different = [name for name in sorted({*own, *other}) if own.get(name) != other.get(name)]
    if different:
        name = different[0]
        shapes = " and ".join(str(list(found[name])) if name in found else "absent" for found in (own, other))
        raise ArgumentError(
            f"ref_model_name_or_path={place} cannot follow the policy (ref_model_update_steps, sync_ref_model): "
            f"{len(different)} weights have other shapes, for example {name} ({shapes})"
        )
