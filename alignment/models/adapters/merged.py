"""Load an adapter with its base as the plain model that both are together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from alignment.errors import AdapterError
from alignment.models.adapters.attach import attach_adapter
from alignment.models.adapters.folder import FOUR_BITS, adopt_trained_config, load_adapter, read_trained
from alignment.models.adapters.merge import merge_into_base
from alignment.models.adapters.peft_config import TASKS, read_adapter, read_description
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders.hub import load_causal_lm, load_score_model, resolve_model_folder
from alignment.models.folders.probe import largest_difference, probe
from alignment.telemetry import log

TOLERANCE = 1e-4
"""Largest allowed difference that merging makes to an output, relative to the largest output: the same sums in another
order."""


class Merged(NamedTuple):
    """A model with its adapter merged in."""

    model: CausalLM | ScoreModel
    """In float32."""
    difference: float
    """The largest difference of its outputs to those of base and adapter."""


def find_base(folder: Path, base: str | None) -> Path:
    """Return the folder of ``base`` (None: the base that the adapter in ``folder`` names)."""
    name = base or read_description(folder).get("base_model_name_or_path")
    if not name:
        raise AdapterError(f"{folder}: its adapter_config.json names no base model; give it with --base")
    return resolve_model_folder(str(name))


def load_merged(folder: Path, base: Path, *, content: str) -> Merged:
    """Return the model of the adapter in ``folder`` and the model in ``base``, whose checksum is ``content``.

    AdapterError if they do not belong together, or if merging changes the outputs on fixed tokens.
    """
    model = _load_base(folder, base)
    adapter = read_adapter(folder, model.config)
    attach_adapter(model, dataclasses.replace(adapter, base=str(base), base_content=content), seed=0)
    load_adapter(folder, model)
    adopt_trained_config(folder, model)
    if read_trained(folder).get(FOUR_BITS):
        log.warn(
            f"{folder}: this adapter was trained with its base in 4 bits. It is merged into the base as stored, whose "
            "outputs differ somewhat from those that training saw"
        )
    adapted = probe(model)
    merge_into_base(model)
    difference = largest_difference(adapted, probe(model))
    largest = max(float(part.abs().max()) for part in adapted)
    if not difference <= TOLERANCE * max(1.0, largest):
        raise AdapterError(f"{folder}: merging changes outputs of up to {largest:g} by {difference:g}")
    return Merged(model, difference)


def _load_base(folder: Path, place: Path) -> CausalLM | ScoreModel:
    if read_description(folder).get("task_type") != TASKS["score"]:
        return load_causal_lm(place)
    options = ScoreOptions.from_dict(read_trained(folder).get("config") or {})
    return load_score_model(place, options=options, new_score_head=True)
