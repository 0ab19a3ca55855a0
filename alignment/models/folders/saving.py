"""Models to Hugging Face folders, written by all processes that hold them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    """The process that writes it."""
    entries: tuple[TensorEntry, ...]


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Where the weights of one model are: what this process holds, and through ``parts`` what every process holds.

    ``tensors`` are looked at when a model is saved; a process holds at most one rectangle of a tensor.
    """

    tensors: Mapping[str, paddle.Tensor]
    parts: Mapping[str, Part]
    topology: Topology

    @classmethod
    def of(cls, model: CausalLM | ScoreModel, topology: Topology | None = None) -> WeightSource:
        """Return the source of a model whose parameters are in memory, as its placement in ``topology`` cut them."""
        tensors = dict(model.named_parameters())
        return cls(tensors=tensors, parts=model.parts, topology=topology or Topology(device="cpu"))

    @cached_property
    def _everyone(self) -> list[list[tuple[Part, str]]]:
        """The parts of every process, each with its dtype; the first use is made by all together."""
        own = [(self.parts[name], dtype_name(tensor)) for name, tensor in self.tensors.items()]
        return self.topology.world.gather_objects(own, "parts of a model")

    @property
    def held(self) -> list[list[Part]]:
        """The parts of every process."""
        return [[part for part, _ in parts] for parts in self._everyone]

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """That of every tensor, by name: beside a bfloat16 body the score head stays float32."""
        found: dict[str, str] = {}
        for part, dtype in (pair for parts in self._everyone for pair in parts):
            assert found.setdefault(part.name, dtype) == dtype, f"{part.name} is {dtype} here, {found[part.name]} there"
        return found

    @cached_property
    def files(self) -> list[WeightFile]:
        """The files of the model's folder, and who writes them."""
        return assign_files(self.held, self.dtypes)

    @cached_property
    def _resharder(self) -> Resharder:
        shapes = {part.name: part.shape for parts in self.held for part in parts}
        targets: list[list[Part]] = [[] for _ in self.held]
        for file in self.files:
            targets[file.writer] += [Part.whole(entry.name, shapes[entry.name]) for entry in file.entries]
        return Resharder(plan_transfers(self.held, targets), self.topology, dtypes=self.dtypes)

    def stream_written(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, array) as files hold them, of the tensors this process writes and in that order."""
        for name, tensor in self._resharder.stream(self.tensors):
            yield name, stored_array(name, tensor)


def save_model(
    folder: str | Path,
    model: CausalLM | ScoreModel,
    tokenizer: Tokenizer | None,
    *,
    weights: WeightSource | None = None,
) -> None:
    """Write one standard folder: config.json, safetensors, tokenizer. The caller makes it appear whole.

    All processes of ``weights.topology`` call it; what fails in one is raised in all, NotFiniteError for a weight that
    is NaN or infinite too. Without ``weights`` the model is
    whole in this process.
    """
    folder = Path(folder)
    weights = weights or WeightSource.of(model)
    world = weights.topology.world
    on_main(world, write_description, folder, model, tokenizer)
    own = {file.name: file.entries for file in weights.files if file.writer == weights.topology.rank}
    tensors = weights.stream_written()
    attempt = Attempt(world)
    attempt.run(write_files, folder, own, _all_finite(tensors))
    for _ in tensors:
        # Either nothing is left, or this process cannot write: the others still wait for what it sends.
        pass
    attempt.settle()
    on_main(world, write_index, folder, {file.name: file.entries for file in weights.files})


def assign_files(held: Sequence[Sequence[Part]], dtypes: Mapping[str, str]) -> list[WeightFile]:
    """Share the tensors that the processes hold, of ``dtypes`` by name, among them as writers."""
    shapes = {part.name: part.shape for parts in held for part in parts}
    entries = {name: stored_entry(name, shapes[name], stored_dtype(dtypes[name])) for name in model_order(shapes)}
    writers = choose_writers({name: entry.num_bytes for name, entry in entries.items()}, held)
    contents = [
        (rank, file)
        for rank in range(len(held))
        for file in cut_files(entry for name, entry in entries.items() if writers[name] == rank)
        if file
    ]
    names = file_names(len(contents))
    return [WeightFile(name, rank, tuple(file)) for name, (rank, file) in zip(names, contents, strict=True)]


def choose_writers(sizes: Mapping[str, int], held: Sequence[Sequence[Part]]) -> dict[str, int]:
    """Return who writes each tensor, about the same number of bytes everyone.

    That is a process that holds some of it, unless it would get more than its share.
    """
    holders: dict[str, list[int]] = {name: [] for name in sizes}
    for rank, parts in enumerate(held):
        for part in parts:
            holders[part.name].append(rank)
    share = max([sum(sizes.values()) / len(held), *sizes.values()])
    loads = [0] * len(held)
    writers = {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        near = min(holders[name], key=lambda rank: (loads[rank], rank))
        writers[name] = near if loads[near] + sizes[name] <= share else loads.index(min(loads))
        loads[writers[name]] += sizes[name]
    return writers


def describe_model(model: CausalLM | ScoreModel, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the config.json of ``model``, readable by Hugging Face's classes.

    ``dtype`` is that of the body, whatever the folder said that the model came from; a score head may be wider.
    """
    config = model.config.to_dict()
    config.pop("torch_dtype", None)
    config["eos_token_id"] = as_json_ids(sequence_ends(model.config, tokenizer))
    kind = "ForSequenceClassification" if isinstance(model, ScoreModel) else "ForCausalLM"
    config["architectures"] = [model.config.family.class_prefix + kind]
    config["dtype"] = dtype_name(next(iter(model.parameters())))
    if isinstance(model, ScoreModel):
        config |= {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        config |= model.options.to_dict() | {SCORE_STATE: model.normalizer.state()}
        config["pad_token_id"] = padding_id(model.config, tokenizer)
    return config


def stored_entry(name: str, shape: Sequence[int], dtype: np.dtype) -> TensorEntry:
    """Return how files hold the parameter ``name`` of ``shape``."""
    return TensorEntry(name, dtype, tuple(shape[::-1] if is_transposed(name) else shape))


def stored_array(name: str, parameter: paddle.Tensor) -> np.ndarray:
    """Return the parameter ``name`` as files hold it; bfloat16 as uint16 bits."""
    array = parameter.numpy()
    return np.ascontiguousarray(array.T) if is_transposed(name) else array


def _all_finite(tensors: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Pass on (name, array); raise NotFiniteError, and leave the rest of ``tensors``, at a weight that is ruined."""
    for name, array in tensors:
        if not _is_finite(array):
            raise NotFiniteError(f"{name} holds NaN or infinite numbers")
        yield name, array


def _is_finite(array: np.ndarray) -> bool:
    """Return whether all numbers of ``stored_array`` are finite; a bfloat16's exponent of ones says that it is not."""
    if array.dtype == np.uint16:
        return bool(((array & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(array).all())


def stored_dtype(dtype: str) -> np.dtype:
    """Return the dtype of ``stored_array`` for parameters of ``dtype``."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def write_description(folder: Path, model: CausalLM | ScoreModel, tokenizer: Tokenizer | None) -> None:
    """Write everything but the weights; weights of before go."""
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
