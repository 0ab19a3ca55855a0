"""Write models to Hugging Face folders, together from all processes that hold them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle

from alignment.architecture.decoder_config import as_json_ids
from alignment.architecture.parts import Part
from alignment.architecture.reshard_plan import model_order, plan_transfers
from alignment.errors import NotFiniteError
from alignment.models.config import CONFIG_FILE, GENERATION_FILE
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.score_model import ScoreModel
from alignment.models.folders.family_files import FamilyFiles, file_shape
from alignment.models.folders.hub import SCORE_STATE
from alignment.models.folders.naming import is_transposed
from alignment.models.folders.sequence_ends import padding_id, sequence_ends
from alignment.models.safetensors_io import TensorEntry, cut_files, file_names, remove_weights, write_files, write_index
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.comms.together import Attempt, on_main
from alignment.parallel.reshard import Resharder, dtype_name
from alignment.parallel.topology import Topology


class WeightFile(NamedTuple):
    """One safetensors file of a model folder."""

    name: str
    writer: int
    """The rank that writes it."""
    entries: tuple[TensorEntry, ...]


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """The weights of one model that this process holds: ``tensors``, and the ``parts`` of the model that they are.

    ``tensors`` are read when the model is saved; a process holds at most one part of each tensor.
    """

    tensors: Mapping[str, paddle.Tensor]
    parts: Mapping[str, Part]
    topology: Topology
    files_of: FamilyFiles | None = None
    """How the family's files name and arrange parameters; None: as the parameters."""

    @classmethod
    def of(cls, model: CausalLM | ScoreModel, topology: Topology | None = None) -> WeightSource:
        """Return the weights of a model in memory that was placed according to ``topology`` (None: unsplit)."""
        tensors = dict(model.named_parameters())
        return cls(tensors=tensors, parts=model.parts, topology=topology or Topology(device="cpu"))

    @cached_property
    def _everyone(self) -> list[list[tuple[Part, str]]]:
        """The parts of every process, each with its dtype; all processes must make the first use together."""
        own = [(self.parts[name], dtype_name(tensor)) for name, tensor in self.tensors.items()]
        return self.topology.world.gather_objects(own, "parts of a model")

    @property
    def held(self) -> list[list[Part]]:
        """The parts of every process."""
        return [[part for part, _ in parts] for parts in self._everyone]

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """The dtype of every tensor, by name: a score head is float32 even on a bfloat16 decoder."""
        found: dict[str, str] = {}
        for part, dtype in (pair for parts in self._everyone for pair in parts):
            assert found.setdefault(part.name, dtype) == dtype, f"{part.name} is {dtype} here, {found[part.name]} there"
        return found

    @cached_property
    def files(self) -> list[WeightFile]:
        """The files of the model's folder, with their writers."""
        return assign_files(self.held, self.dtypes, self.files_of)

    @cached_property
    def _groups(self) -> dict[str, list[str]]:
        """The parameters in each tensor of the files."""
        return _group({part.name: part.shape for parts in self.held for part in parts}, self.files_of)

    @cached_property
    def _file_of(self) -> dict[str, str]:
        return {name: file for file, group in self._groups.items() for name in group}

    @cached_property
    def _resharder(self) -> Resharder:
        shapes = {part.name: part.shape for parts in self.held for part in parts}
        targets: list[list[Part]] = [[] for _ in self.held]
        for file in self.files:
            names = [name for entry in file.entries for name in self._groups[entry.name]]
            targets[file.writer] += [Part.whole(name, shapes[name]) for name in names]
        return Resharder(plan_transfers(self.held, targets), self.topology, dtypes=self.dtypes)

    def stream_written(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, array in the file's layout) for the tensors this process writes, in file order."""
        waiting: dict[str, np.ndarray] = {}
        for name, tensor in self._resharder.stream(self.tensors):
            waiting[name] = stored_array(name, tensor)
            file = self._file_of[name]
            group = self._groups[file]
            if all(other in waiting for other in group):
                arrays = {other: waiting.pop(other) for other in group}
                yield file, arrays[name] if self.files_of is None else self.files_of.assemble(arrays)


def save_model(
    folder: str | Path,
    model: CausalLM | ScoreModel,
    tokenizer: Tokenizer | None,
    *,
    weights: WeightSource | None = None,
) -> None:
    """Write a standard model folder: config.json, safetensors, tokenizer. Making it atomic is up to the caller.

    All processes of ``weights.topology`` call it; an error in one is raised in all. NotFiniteError if a weight is NaN
    or infinite. Without ``weights`` the model must be unsplit in this process.
    """
    folder = Path(folder)
    weights = weights or WeightSource.of(model)
    files = FamilyFiles(model.config)
    if weights.files_of is None and not files.is_plain:
        weights = replace(weights, files_of=files)
    world = weights.topology.world
    on_main(world, write_description, folder, model, tokenizer)
    own = {file.name: file.entries for file in weights.files if file.writer == weights.topology.rank}
    tensors = weights.stream_written()
    attempt = Attempt(world)
    attempt.run(write_files, folder, own, _all_finite(tensors))
    for _ in tensors:  # if writing failed here, the other processes still wait for what this one sends
        pass
    attempt.settle()
    on_main(world, write_index, folder, {file.name: file.entries for file in weights.files})


def _group(names: Iterable[str], files_of: FamilyFiles | None) -> dict[str, list[str]]:
    """Return the parameters in each tensor of the files, in file order."""
    order = model_order(names)
    return {name: [name] for name in order} if files_of is None else files_of.group(order)


def assign_files(
    held: Sequence[Sequence[Part]], dtypes: Mapping[str, str], files_of: FamilyFiles | None = None
) -> list[WeightFile]:
    """Return the files of a model with their writers, for the parts ``held`` by each rank and ``dtypes`` by name."""
    shapes = {part.name: part.shape for parts in held for part in parts}
    stored = {name: file_shape(name, shape) for name, shape in shapes.items()}
    groups = _group(shapes, files_of)
    entries = {}
    for file, names in groups.items():
        shape = stored[names[0]] if files_of is None else files_of.stored_shape(names, stored)
        entries[file] = TensorEntry(file, stored_dtype(dtypes[names[0]]), shape)
    writers = choose_writers({name: entry.num_bytes for name, entry in entries.items()}, held, groups)
    contents = [
        (rank, file)
        for rank in range(len(held))
        for file in cut_files(entry for name, entry in entries.items() if writers[name] == rank)
        if file
    ]
    names = file_names(len(contents))
    return [WeightFile(name, rank, tuple(file)) for name, (rank, file) in zip(names, contents, strict=True)]


def choose_writers(
    sizes: Mapping[str, int], held: Sequence[Sequence[Part]], groups: Mapping[str, Sequence[str]] | None = None
) -> dict[str, int]:
    """Return the rank that writes each tensor, so that all ranks write about the same number of bytes.

    It is a rank that holds some of the tensor, unless that would exceed its share. ``groups``: the parameters in each
    tensor (None: each is one).
    """
    holders: dict[str, list[int]] = {name: [] for name in sizes}
    file_of = {name: file for file, names in (groups or {}).items() for name in names}
    for rank, parts in enumerate(held):
        for file in dict.fromkeys(file_of.get(part.name, part.name) for part in parts):
            holders[file].append(rank)
    share = max([sum(sizes.values()) / len(held), *sizes.values()])
    loads = [0] * len(held)
    writers = {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        near = min(holders[name], key=lambda rank: (loads[rank], rank))
        writers[name] = near if loads[near] + sizes[name] <= share else loads.index(min(loads))
        loads[writers[name]] += sizes[name]
    return writers


def describe_model(model: CausalLM | ScoreModel, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return a config.json for ``model`` that Hugging Face's classes can read.

    ``dtype`` is that of the decoder now, whatever the original folder said; a score head may be wider.
    """
    config = model.config.to_dict()
    config.pop("torch_dtype", None)
    config["eos_token_id"] = as_json_ids(sequence_ends(model.config, tokenizer))
    config["architectures"] = [model.config.family.class_name(model.kind)]
    config["dtype"] = str(model.model.dtype).rpartition(".")[2]
    if isinstance(model, ScoreModel):
        config |= model.options.to_dict() | {SCORE_STATE: model.normalizer.state()}
        config["pad_token_id"] = padding_id(model.config, tokenizer)
    return config


def stored_array(name: str, parameter: paddle.Tensor) -> np.ndarray:
    """Return the parameter ``name`` in the file's layout; bfloat16 as uint16 bits."""
    array = parameter.numpy()
    return np.ascontiguousarray(array.T) if is_transposed(name) else array


def _all_finite(tensors: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ``tensors`` unchanged; raise NotFiniteError at the first one with NaN or infinite numbers."""
    for name, array in tensors:
        if not is_finite(array):
            raise NotFiniteError(f"{name} holds NaN or infinite numbers")
        yield name, array


def is_finite(array: np.ndarray) -> bool:
    """Return whether a ``stored_array`` is finite; a bfloat16 is not if its exponent bits are all ones."""
    if array.dtype == np.uint16:
        return bool(((array & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(array).all())


def stored_dtype(dtype: str) -> np.dtype:
    """Return the dtype of a ``stored_array`` for parameters of ``dtype``."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def write_description(folder: Path, model: CausalLM | ScoreModel, tokenizer: Tokenizer | None) -> None:
    """Write everything but the weights, and remove old weights."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_weights(folder)
    config = describe_model(model, tokenizer)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if isinstance(model, CausalLM):
        ids = {name: config.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        generation = ids | {name: value for name, value in model.config.generation.items() if value is not None}
        generation["eos_token_id"] = config["eos_token_id"]
        (folder / GENERATION_FILE).write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    if tokenizer is not None:
        padding = config["pad_token_id"] if isinstance(model, ScoreModel) else None
        tokenizer.save(folder, padding=padding)
