"""Save and load optimizer state: every process writes its share, and any layout can read any other's files.

A single process writes ``NAME.safetensors``. Several write ``NAME-RRRRR.safetensors`` each, and the index
``NAME.parts.json`` says which file holds which rectangle of which tensor.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from alignment.architecture.parts import Box, Part, inside
from alignment.architecture.reshard_plan import UncoveredError, plan_transfers
from alignment.errors import CheckpointError
from alignment.parallel.comms.group import Group
from alignment.parallel.comms.together import Attempt
from alignment.training.optimizers import POWER_FIELDS

Stored = Mapping[str, Mapping[str, Part]]
"""Rectangle by file name and key."""


def state_part(key: str, shape: Sequence[int], parts: Mapping[str, Part]) -> Part:
    """Return the rectangle of the state tensor ``key`` ("parameter/field"), given those of the parameters.

    ``shape`` is the tensor's shape, used if it is not split.
    """
    name, _, field = key.rpartition("/")
    if name in parts and field not in POWER_FIELDS:
        return parts[name]._replace(name=key)
    return Part.whole(key, shape)


def write_state(
    folder: Path, name: str, tensors: Mapping[str, np.ndarray], *, parts: Mapping[str, Part], world: Group
) -> None:
    """Write this process's ``tensors`` into ``folder``; all processes of ``world`` call it and fail together.

    ``parts`` are the rectangles of its parameters. What several processes hold is written once.
    """
    attempt = Attempt(world)
    if world.size == 1:
        attempt.run(_write_tensors, folder / f"{name}.safetensors", tensors)
        attempt.settle()
        return
    own = {key: state_part(key, array.shape, parts) for key, array in tensors.items()}
    assert all(part.extent == tensors[key].shape for key, part in own.items()), "a part does not fit its tensor"
    shares = share_parts(world.gather_objects(list(own.values()), f"parts of {name}"))
    files = {f"{name}-{rank:05d}.safetensors": share for rank, share in enumerate(shares) if share}
    mine = shares[world.index]
    if mine:
        path = folder / f"{name}-{world.index:05d}.safetensors"
        attempt.run(_write_tensors, path, {part.name: tensors[part.name] for part in mine})
    if world.is_first:
        attempt.run(_write_index, _index_path(folder, name), files)
    attempt.settle()


def read_state(
    folder: Path, name: str, *, parts: Mapping[str, Part] | None = None, known: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Return the state ``name`` in ``folder``: whole, or only the rectangles ``parts`` of this process.

    ``known`` are the parameters of all processes; CheckpointError if there is state of any other.
    """
    try:
        stored = _find(folder, name)
        wanted = _wanted(stored, parts, known, place=folder / name)
        plan = plan_transfers([list(held.values()) for held in stored.values()], [wanted])
        found: dict[str, np.ndarray] = {}
        for number, file in enumerate(stored):
            with safe_open(str(folder / file), framework="np") as reader:
                for transfer in plan.transfers:
                    if transfer.source == number:
                        held = plan.sources[number][transfer.name]
                        values = _read_box(reader, held, transfer.box)
                        _place(values, plan.targets[0][transfer.name], transfer.box, found)
        return found
    except (OSError, SafetensorError, UncoveredError) as error:
        raise CheckpointError(f"cannot read {folder / name}: {error}") from error


def share_parts(held: Sequence[Sequence[Part]]) -> list[list[Part]]:
    """Return the parts that each process writes: every distinct one once, in shares of about equal size."""
    holders: dict[Part, list[int]] = defaultdict(list)
    for rank, parts in enumerate(held):
        for part in parts:
            holders[part].append(rank)
    shares: list[list[Part]] = [[] for _ in held]
    loads = [0] * len(held)
    for part in sorted(holders, key=lambda part: -part.size):
        writer = min(holders[part], key=lambda rank: (loads[rank], rank))
        shares[writer].append(part)
        loads[writer] += part.size
    return shares


def _wanted(stored: Stored, parts: Mapping[str, Part] | None, known: Collection[str], *, place: Path) -> list[Part]:
    """Return the rectangles that this process needs of the stored tensors."""
    shapes = {key: part.shape for held in stored.values() for key, part in held.items()}
    if parts is None:
        return [Part.whole(key, shape) for key, shape in shapes.items()]
    wanted = []
    for key, shape in shapes.items():
        owner, is_state, _ = key.rpartition("/")
        if is_state and owner not in parts:
            if owner not in known:
                raise CheckpointError(
                    f"{place}: optimizer state holds {owner!r}, which is not a parameter of this model"
                )
            continue
        part = state_part(key, shape, parts)
        if part.shape != shape:
            raise CheckpointError(f"{place}: {key} has shape {list(shape)}, this model needs {list(part.shape)}")
        wanted.append(part)
    return wanted


def _find(folder: Path, name: str) -> Stored:
    index = _index_path(folder, name)
    if not index.is_file():
        file = f"{name}.safetensors"
        with safe_open(str(folder / file), framework="np") as reader:
            keys = reader.keys()
            return {file: {key: Part.whole(key, reader.get_slice(key).get_shape()) for key in keys}}
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["files"]
        return {file: {key: _part(key, *entry) for key, entry in held.items()} for file, held in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged ({error!r})") from error


def _part(key: str, shape: Sequence[int], box: Sequence[Sequence[int]]) -> Part:
    return Part(key, tuple(map(int, shape)), tuple((int(start), int(stop)) for start, stop in box))


def _index_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.parts.json"


def _write_index(path: Path, files: Mapping[str, Sequence[Part]]) -> None:
    content = {file: {part.name: [part.shape, part.box] for part in share} for file, share in files.items()}
    path.write_text(json.dumps({"files": content}), encoding="utf-8")


def _write_tensors(path: Path, group: Mapping[str, np.ndarray]) -> None:
    try:
        save_file({name: np.ascontiguousarray(value) for name, value in group.items()}, str(path))
    except SafetensorError as error:  # what the library makes of a full disk
        raise OSError(str(error)) from error


def _read_box(reader: Any, held: Part, box: Box) -> np.ndarray:
    """Return the numbers in ``box`` of a tensor of which the file holds the part ``held``."""
    return reader.get_tensor(held.name) if box == held.box else reader.get_slice(held.name)[inside(box, held.box)]


def _place(values: np.ndarray, part: Part, box: Box, found: dict[str, np.ndarray]) -> None:
    """Put the numbers of ``box`` where they belong in ``part``."""
    if box == part.box:
        found[part.name] = values
        return
    if part.name not in found:
        found[part.name] = np.empty(part.extent, values.dtype)
    found[part.name][inside(box, part.box)] = values
