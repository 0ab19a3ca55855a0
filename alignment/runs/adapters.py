"""Adapt the models of a run: find the base, attach a new or a saved adapter, and check that they belong together."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

from alignment.architecture.adapter import Adapter
from alignment.arguments.parsed import Parsed
from alignment.errors import ArgumentError, CheckpointError
from alignment.models.adapters.attach import attach_adapter
from alignment.models.adapters.folder import adapter_in, load_adapter
from alignment.models.adapters.peft_config import CONFIG_FILE, read_adapter
from alignment.models.decoder.placement import Placement
from alignment.parallel.comms.together import everywhere
from alignment.runs.frozen import FrozenInput, frozen_model
from alignment.runs.launch import Launch
from alignment.telemetry import log

_OF_ADAPTER = {
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "rslora": "rank_stabilized",
    "lora_target_modules": "modules",
}
"""Key to the field of Adapter that it decides."""


def trained_placement(launch: Launch, role: str = "policy") -> Placement:
    """Return the placement of a model that the run trains; with ``load_in_4bit`` its base is held in 4 bits."""
    asked = launch.parsed.adapter
    return Placement.of(launch.ranks_of(role).topology, four_bit=asked.lora and asked.load_in_4bit)


def frozen_base(launch: Launch, name: str, folder: str) -> list[FrozenInput]:
    """Return the base of the trained model ``name`` as an input that must not change; nothing without an adapter."""
    if not launch.parsed.adapter.lora:
        return []
    return [frozen_model(f"the base of the {name}", folder, launch.topology.world, launch.hashed)]


def adapt(launch: Launch, name: str, model: Any, base: FrozenInput, *, folder: str | None, continues: bool) -> None:
    """Attach to ``model`` the adapter that the run trains.

    It comes from the checkpoint's model ``folder`` when resuming, else from ``lora_path`` if this model ``continues``
    it, else it is new. All processes call it together.
    """
    path = launch.parsed.adapter.lora_path if continues else None
    place = None if path is None else _find_adapter(path)
    wanted = launch.parsed.adapter.describe(model.config) if place is None else read_adapter(place, model.config)
    if place is not None:
        _refuse_contradictions(launch.parsed, wanted, launch.parsed.adapter.describe(model.config), place)
    if folder is not None:
        place = launch.checkpoint.model_folder(folder)
        _refuse_change(read_adapter(place, model.config), wanted, place)
    wanted = dataclasses.replace(wanted, base=base.place, base_content=base.content)
    attach_adapter(model, wanted, seed=launch.parsed.training.seed)
    if place is not None:
        load = partial(load_adapter, place, model, may_lack_head=folder is None)
        everywhere(launch.topology.world, load)
    if not model.parts:
        return
    trained = sum(int(p.size) for p in model.parameters() if not p.stop_gradient)
    held = sum(math.prod(part.extent) for part in model.parts.values())
    log.info(
        f"{name}: an adapter of rank {wanted.rank}, scaling {wanted.scaling:g}, in {len(wanted.modules)} modules: "
        f"{trained:,} of {held:,} parameters here are trained ({100 * trained / held:.2f} %)"
    )


def warn_of_start(launch: Launch) -> None:
    """Warn if the reference, the base without adapter, is not the model that training starts from."""
    if launch.parsed.adapter.lora_path is not None:
        log.warn(
            f"lora_path={launch.parsed.adapter.lora_path}: training starts from that adapter, and the reference is the "
            "base without it. For a reference that is the start, merge the adapter first (alignment merge)"
        )


def _find_adapter(path: str) -> Path:
    """Return the adapter's folder at (or, for a run's output, in) ``lora_path``; ArgumentError without one."""
    folder = adapter_in(Path(path).expanduser())
    if folder is None:
        raise ArgumentError(f"lora_path={path}: no adapter there; the folder of one holds {CONFIG_FILE}")
    return folder


def _refuse_contradictions(parsed: Parsed, saved: Adapter, asked: Adapter, place: Path) -> None:
    """Raise ArgumentError if a key that the user gave asks for another adapter than the one in ``place``."""
    for key, name in _OF_ADAPTER.items():
        if parsed.given(key) and getattr(saved, name) != getattr(asked, name):
            raise ArgumentError(
                f"{key}: the adapter of lora_path={place} has {_show(saved, name)}, but {_show(asked, name)} is asked "
                "for. Leave the key out to continue with that adapter"
            )


def _refuse_change(saved: Adapter, wanted: Adapter, place: Path) -> None:
    """Raise CheckpointError if the run asks for another adapter than its checkpoint in ``place`` has."""
    for key, name in _OF_ADAPTER.items():
        if getattr(saved, name) != getattr(wanted, name):
            raise CheckpointError(
                f"cannot resume: the adapter in {place} has {_show(saved, name)}, but {key} asks for "
                f"{_show(wanted, name)}. Give the former value, or start a new run"
            )


def _show(adapter: Adapter, name: str) -> str:
    value = getattr(adapter, name)
    return f"{len(value)} modules" if isinstance(value, tuple) else f"{name} {value}"
