"""Score heads with several outputs in model folders: how many there are, and their weighted sum as one score."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignment.architecture.families import GATING
from alignment.errors import ModelFolderError
from alignment.models.decoder.gating import GatingOptions
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders.views import StoredTensor, View
from alignment.models.safetensors_io import Stored
from alignment.telemetry import log


class StoredHead(NamedTuple):
    """How the score head in a folder is read."""

    prefix: str | None = None
    """Its name in the files, if ``naming`` does not know it."""
    weights: Sequence[float] | None = None
    """Make one score of several: their weighted sum."""
    keeps_attributes: bool = False
    """Whether several scores are kept; a folder with several is refused if not, and without ``weights``."""
    gating: GatingOptions | None = None
    """The gating network that a folder without one gets."""


PLAIN_HEAD = StoredHead()
WEIGHT, BIAS = "score.weight", "score.bias"


@dataclass(frozen=True)
class Weighted(View):
    """The sum of the rows of a score head [k, H] (or of a bias [k]), weighted; the shape is [1, H] (or [1])."""

    weights: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return (1, *self.tensor.shape[1:])

    def read(self, slices: tuple[slice, ...] = ()) -> Stored:
        """Return the sum in float32, or a rectangle of it."""
        rows = self.tensor.read().as_float32()
        total = np.tensordot(np.asarray(self.weights), rows.astype(np.float64), axes=1)[None]
        return Stored(self.name, total.astype(np.float32)[slices], False)


def settle_labels(
    options: ScoreOptions, raw: Mapping[str, Any], found: Mapping[str, StoredTensor], folder: Path
) -> ScoreOptions:
    """Return ``options`` with a label for each output of the head in the files, which must be as many as config.json
    says.
    """
    if WEIGHT not in found:
        return dataclasses.replace(options, labels=())
    count, said = found[WEIGHT].shape[0], raw.get("num_labels", len(raw.get("id2label") or ()) or None)
    if said is not None and said != count:
        raise ModelFolderError(
            f"{folder}: config.json says num_labels={said}, and the score head {found[WEIGHT].name} has {count} "
            "output(s)"
        )
    if count == 1 or options.num_labels == count:
        return options
    return dataclasses.replace(options, labels=tuple(f"LABEL_{number}" for number in range(count)))


def combine_scores(
    saved: ScoreOptions, weights: Sequence[float], found: dict[str, StoredTensor], folder: Path
) -> ScoreOptions:
    """Replace the head in ``found`` by the weighted sum of its outputs; return the options of a model with one score.

    ``weights`` are as many as the scores.
    """
    if saved.gating is not None:
        raise ModelFolderError(
            f"{folder}: reward_attribute_weights={_shown(weights)}, but its gating network weighs its scores; leave "
            "the key out"
        )
    if saved.num_labels == 1:
        raise ModelFolderError(
            f"{folder}: reward_attribute_weights={_shown(weights)}, but it has a single score; leave the key out"
        )
    if len(weights) != saved.num_labels:
        raise ModelFolderError(
            f"{folder}: reward_attribute_weights has {len(weights)} number(s), and the reward model has "
            f"{saved.num_labels} scores: {', '.join(saved.labels)}"
        )
    for name in (WEIGHT, BIAS):
        if name in found:
            found[name] = Weighted(found[name], tuple(map(float, weights)))
    return dataclasses.replace(saved, labels=())


def add_gating(saved: ScoreOptions, gating: GatingOptions, folder: Path) -> ScoreOptions:
    """Return the options with the gating network of the folder, else with ``gating``; refuse a model with one score."""
    if saved.num_labels == 1:
        raise ModelFolderError(
            f"{folder}: objective=gating weighs the scores of a model with several, and this one has "
            "one score or none; train its attributes first (objective=regression)"
        )
    if saved.gating is not None:
        log.info(f"{folder}: has a gating network, which is trained further with its own sizes and length penalties")
        return saved
    return dataclasses.replace(saved, gating=gating)


def drop_gating(found: dict[str, StoredTensor], folder: Path, *, with_head: bool) -> None:
    """Remove a gating network from ``found``, and with it the head whose scores mean nothing to a critic."""
    lost = [name for name in found if name.startswith(GATING) or (with_head and name in (WEIGHT, BIAS))]
    for name in lost:
        del found[name]
    kept = "its scores are not used either, the head starts at zero" if with_head else "its scores are trained further"
    log.info(f"{folder}: its gating network is not used here; {kept}")


def check_labels(wanted: ScoreOptions, saved: ScoreOptions, folder: Path) -> None:
    """Refuse a head that has another number of outputs than ``wanted``, or the same in another order."""
    if wanted.labels == saved.labels:
        return
    if wanted.num_labels == 1:
        raise ModelFolderError(
            f"{folder}: has {saved.num_labels} scores ({', '.join(saved.labels)}) where one is needed; PPO and "
            f"chat use their weighted sum with reward_attribute_weights, {saved.num_labels} numbers in that order"
        )
    raise ModelFolderError(
        f"{folder}: its score head has {saved.num_labels} output(s) ({', '.join(saved.labels) or 'one score'}), and "
        f"attributes asks for {wanted.num_labels}: {', '.join(wanted.labels)}"
    )


def _shown(weights: Sequence[float]) -> str:
    return ",".join(f"{weight:g}" for weight in weights)
