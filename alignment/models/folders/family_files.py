"""How the files of a family name and arrange the parameters: fused projections, transposed matrices, turned heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.family import LAYERS, FileMatrix, Files, Weight
from alignment.errors import ModelFolderError
from alignment.models import safetensors_io
from alignment.models.folders.naming import is_transposed
from alignment.models.folders.views import StoredTensor, View, whole_slices


class Slot(NamedTuple):
    """Where a parameter stands in the files."""

    name: str
    """The tensor that holds it."""
    outputs: np.ndarray | None
    """The outputs of that tensor that are the parameter's, in its order; None: all."""
    inputs_first: bool
    """Whether the tensor is [inputs, outputs]."""


@dataclass(frozen=True)
class FamilyFiles:
    """The files of one model."""

    config: DecoderConfig

    @cached_property
    def _form(self) -> Files:
        files = self.config.family.files or Files()
        return files if isinstance(files, Files) else files(self.config)

    @property
    def is_plain(self) -> bool:
        """Whether every parameter has a tensor of its own under its own name."""
        return self.config.family.files is None and self._head_order is None

    def slot(self, parameter: str) -> Slot:
        """Return where ``parameter`` stands."""
        stem, _, ending = parameter.rpartition(".")
        if not stem.startswith(LAYERS):
            return Slot(f"{self._form.names.get(stem, stem)}.{ending}", None, False)
        number, _, inner = stem.removeprefix(LAYERS).partition(".")
        weight = next((weight for weight in self.config.family.layer if weight.name == inner), None)
        held = next((held for held in self._form.matrices if weight and weight.role in held.roles), None)
        name = held.name if held else self._form.names.get(inner, inner)
        outputs = None if weight is None else self._outputs(weight, held)
        inputs_first = held is not None and held.inputs_first and ending == "weight"
        return Slot(f"{self._form.layers}{number}.{name}.{ending}", outputs, inputs_first)

    def hold_alone(self, parameter: str) -> bool:
        """Return whether ``parameter`` has a tensor of its own under its own name, in its own order."""
        slot = self.slot(parameter)
        return slot.name == parameter and slot.outputs is None and not slot.inputs_first

    def parameters(
        self, tensors: Iterable[StoredTensor], names: Iterable[str], folder: Path
    ) -> Iterator[tuple[str, StoredTensor]]:
        """Yield (its parameter, the part that is this parameter) for all of ``tensors``; (its own name, itself) for
        others. ``names`` are the model's parameters.
        """
        held: dict[str, list[tuple[str, Slot]]] = {}
        for parameter in names:
            slot = self.slot(parameter)
            held.setdefault(slot.name, []).append((parameter, slot))
        base = self._form.layers.partition(".")[0] + "."
        for tensor in tensors:
            if tensor.name.endswith(self._form.ignored or ("\0",)):
                continue
            known = held.get(tensor.name) or held.get(base + tensor.name)
            if known is None:
                yield tensor.name, tensor
                continue
            total = sum(len(slot.outputs) for _, slot in known if slot.outputs is not None)
            for parameter, slot in known:
                _check_outputs(tensor, slot, total, folder)
                yield parameter, Outputs(tensor, slot.outputs, slot.inputs_first)

    def group(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return the parameters (of ``names``) in each tensor of files, in the order in which they are complete."""
        held: dict[str, list[str]] = {}
        for parameter in names:
            name = self.slot(parameter).name
            held[name] = [*held.pop(name, []), parameter]
        return held

    def stored_shape(self, parameters: list[str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Return the shape of the tensor that holds ``parameters``; ``shapes`` are theirs, [outputs, inputs]."""
        first = shapes[parameters[0]]
        shape = (sum(shapes[name][0] for name in parameters), *first[1:])
        return shape[::-1] if self.slot(parameters[0]).inputs_first else shape

    def assemble(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the tensor that holds the parameters ``arrays``, each [outputs, inputs] or a vector."""
        slots = {name: self.slot(name) for name in arrays}
        first = next(iter(arrays))
        if len(arrays) == 1 and slots[first].outputs is None:
            whole = arrays[first]
        else:
            total = sum(len(array) for array in arrays.values())
            whole = np.empty((total, *arrays[first].shape[1:]), arrays[first].dtype)
            for name, array in arrays.items():
                whole[slots[name].outputs] = array
        return np.ascontiguousarray(whole.T) if slots[first].inputs_first else whole

    def _outputs(self, weight: Weight, held: FileMatrix | None) -> np.ndarray | None:
        """Return ``Slot.outputs``."""
        found = None
        if held is not None and len(held.roles) > 1:
            sizes = {role: self._size(role) for role in held.roles}
            found = self._grouped(weight.role) if held.by_group else _stacked(weight.role, sizes)
        if self._head_order is None or weight.role not in ("queries", "keys"):
            return found
        found = np.arange(self._size(weight.role)) if found is None else found
        return found.reshape(-1, self.config.head_dim)[:, self._head_order].ravel()

    def _size(self, role: str) -> int:
        return self.config.dimensions[self.config.family.weight(role).dimensions[-1]]

    def _grouped(self, role: str) -> np.ndarray:
        """Return the outputs of ``role`` where those of a key head stand together: queries, key, value."""
        config = self.config
        queries = config.num_attention_heads // config.num_key_value_heads
        places = np.arange(config.num_key_value_heads * (queries + 2) * config.head_dim)
        places = places.reshape(config.num_key_value_heads, queries + 2, config.head_dim)
        heads = {"queries": slice(0, queries), "keys": slice(queries, queries + 1), "values": slice(queries + 1, None)}
        return places[:, heads[role]].ravel()

    @cached_property
    def _head_order(self) -> np.ndarray | None:
        """Return the file's number of each number of a query or key, where rotation pairs others than halves."""
        return self.config.head_order


def _stacked(role: str, sizes: Mapping[str, int]) -> np.ndarray:
    first = 0
    for name, size in sizes.items():
        if name == role:
            break
        first += size
    return np.arange(first, first + sizes[role])


def _check_outputs(tensor: StoredTensor, slot: Slot, total: int, folder: Path) -> None:
    outputs = tensor.shape[-1 if slot.inputs_first else 0] if tensor.shape else 0
    if slot.outputs is not None and outputs != total:
        raise ModelFolderError(f"{folder}: {tensor.name} has {outputs} outputs, config.json needs {total}")


@dataclass(frozen=True)
class Outputs(View):
    """Some ``outputs`` (None: all) of a tensor, as [outputs, inputs] or a vector."""

    outputs: np.ndarray | None
    inputs_first: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        shape = self.tensor.shape[::-1] if self.inputs_first else self.tensor.shape
        return shape if self.outputs is None else (len(self.outputs), *shape[1:])

    def read(self, slices: tuple[slice, ...] = ()) -> safetensors_io.Stored:
        """Return the part, or a rectangle of it."""
        if self.outputs is None and not self.inputs_first:
            return self.tensor.read(slices)
        rows, *others = slices or whole_slices(self.shape)
        stored = self.tensor.read()
        whole = stored.array.T if self.inputs_first else stored.array
        wanted = whole[rows] if self.outputs is None else whole[self.outputs[rows]]
        return stored._replace(array=wanted[(slice(None), *others)])


def file_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the parameter's ``shape`` as [outputs, inputs]."""
    return tuple(shape[::-1] if is_transposed(name) else shape)
