"""Write adapters to folders that PEFT opens, and read PEFT's: adapter_config.json and adapter_model.safetensors.

``alignment.json`` adds what PEFT has no place for: the configuration of the trained model with the statistics of its
scores, and a checksum of the base.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from alignment.architecture.adapter import HEAD, is_trained_with_adapter
from alignment.architecture.parts import Part
from alignment.architecture.reshard_plan import model_order, plan_transfers
from alignment.errors import AdapterError, NotFiniteError
from alignment.models.adapters.peft_config import CONFIG_FILE, WEIGHTS_FILE, describe_adapter
from alignment.models.config import CONFIG_FILE as MODEL_CONFIG
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folder_files import file_inside, read_object
from alignment.models.folders.hub import SCORE_STATE
from alignment.models.folders.naming import is_transposed
from alignment.models.folders.run_models import RUN_MODELS
from alignment.models.folders.saving import WeightSource, describe_model, is_finite, stored_array
from alignment.models.safetensors_io import Location, TensorEntry, list_file, write_files
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.comms.together import on_main
from alignment.parallel.reshard import Resharder
from alignment.telemetry import log

MODEL_FILE = "alignment.json"
FOUR_BITS = "base_in_4_bits"
"""Its key that says that the base was held in 4 bits in training."""
_PREFIX = "base_model.model."
"""What PEFT puts before every name."""
_SHOWN = 5


def adapter_in(folder: Path, parts: Sequence[str] = RUN_MODELS) -> Path | None:
    """Return the adapter's folder: ``folder`` itself, or the first of a run's ``parts`` in it that holds a model.

    None if there is none, or if the first model is a whole one.
    """
    for place in (folder, *(folder / part for part in parts)):
        if (place / MODEL_CONFIG).is_file():
            return None
        if (place / CONFIG_FILE).is_file():
            return place
    return None


def trained_weights(source: WeightSource) -> WeightSource:
    """Return the part of ``source`` that is trained and saved with an adapter."""
    tensors = {name: tensor for name, tensor in source.tensors.items() if is_trained_with_adapter(name)}
    return WeightSource(tensors=tensors, parts=source.parts, topology=source.topology)


def save_adapter(
    folder: Path, model: CausalLM | ScoreModel, tokenizer: Tokenizer | None, weights: WeightSource
) -> None:
    """Write the adapter of ``model``; all processes of ``weights.topology`` call it, and the main one writes.

    ``weights`` are the result of ``trained_weights``. NotFiniteError if one of them is NaN or infinite.
    """
    arrays = _gather(weights)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            if not is_finite(array):
                raise NotFiniteError(f"{name} holds NaN or infinite numbers")
        description = describe_adapter(model.adapter, model.config, kind=model.kind)
        _write_json(folder / CONFIG_FILE, description)
        trained = {"base": model.adapter.base_content, "config": describe_model(model, tokenizer)}
        if model.placement.four_bit:
            trained[FOUR_BITS] = True
        _write_json(folder / MODEL_FILE, trained)
        entries = [TensorEntry(name, array.dtype, array.shape) for name, array in arrays.items()]
        write_files(folder, {WEIGHTS_FILE: entries}, arrays.items())
        if tokenizer is not None:
            tokenizer.save(folder)

    on_main(weights.topology.world, write)


def _gather(weights: WeightSource) -> dict[str, np.ndarray]:
    """Return every tensor by its name in the file, on the main process; the others send their parts."""
    whole = {part.name: Part.whole(part.name, part.shape) for parts in weights.held for part in parts}
    targets = [[whole[name] for name in model_order(whole)], *([] for _ in weights.held[1:])]
    resharder = Resharder(plan_transfers(weights.held, targets), weights.topology, dtypes=weights.dtypes)
    return {_PREFIX + name: stored_array(name, tensor) for name, tensor in resharder.stream(weights.tensors)}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_adapter(folder: Path, model: CausalLM | ScoreModel, *, may_lack_head: bool = False) -> None:
    """Fill the factors (and the score head) of an adapted ``model`` from ``folder``, with its score statistics.

    With ``may_lack_head`` the adapter of a language model leaves the score head as it is. AdapterError if the
    adapter belongs to another base, by the names and shapes of its tensors.
    """
    found = _list_tensors(folder)
    if may_lack_head and not any(name.startswith(HEAD) for name in found):
        found |= {name: None for name in model.whole_shapes if name.startswith(HEAD)}
    _check(found, model, folder)
    for name, parameter in model.named_parameters():
        if is_trained_with_adapter(name) and found[name] is not None:
            _assign(parameter, found[name], model.parts[name])
    trained = read_trained(folder)
    if trained.get("base", "") not in ("", model.adapter.base_content):
        log.warn(f"{folder}: {model.adapter.base} has other weights than the base that this adapter was trained with")
    config = trained.get("config")
    if config is not None and isinstance(model, ScoreModel):
        model.options = ScoreOptions.from_dict(config)
        if SCORE_STATE in config and model.options.normalizer_type is not None:
            model.normalizer.load_state(config[SCORE_STATE])


def read_trained(folder: Path) -> dict[str, Any]:
    """Return what the suite wrote beside PEFT's files; empty for an adapter of another suite."""
    try:
        return read_object(folder, MODEL_FILE)
    except FileNotFoundError:
        return {}


def adopt_trained_config(folder: Path, model: CausalLM | ScoreModel) -> None:
    """Give ``model`` the end tokens, templates and comparison that the adapter in ``folder`` was trained with."""
    config = read_trained(folder).get("config")
    if config is not None:
        trained = type(model.config).from_dict(config, place=str(folder / MODEL_FILE))
        model.config = dataclasses.replace(
            model.config,
            eos_token_id=trained.eos_token_id,
            trained_template=trained.trained_template,
            comparison=trained.comparison,
        )


def _list_tensors(folder: Path) -> dict[str, Location | None]:
    path = file_inside(folder, WEIGHTS_FILE)
    if not path.is_file():
        raise AdapterError(f"{path}: no such file; an adapter's weights are read from it")
    return {location.name.removeprefix(_PREFIX): location for location in list_file(path)}


def _check(found: Mapping[str, Location | None], model: CausalLM | ScoreModel, folder: Path) -> None:
    """Raise AdapterError unless ``found`` are the trained tensors of the whole adapted model."""
    wanted = {name: shape for name, shape in model.whole_shapes.items() if is_trained_with_adapter(name)}
    problems = []
    for word, names in (("missing", wanted.keys() - found.keys()), ("unknown", found.keys() - wanted.keys())):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            problems.append(f"{len(names)} {word} tensor(s): {', '.join(sorted(names)[:_SHOWN])}{more}")
    for name in sorted(name for name in wanted if found.get(name) is not None):
        shape = wanted[name][::-1] if is_transposed(name) else wanted[name]
        if found[name].shape != shape:
            problems.append(f"{name} has shape {list(found[name].shape)}, this base needs {list(shape)}")
            break
    if problems:
        raise AdapterError(f"{folder}: the adapter belongs to another base model: {'; '.join(problems)}")


@paddle.no_grad()
def _assign(parameter: paddle.Tensor, location: Location, part: Part) -> None:
    values = location.read().as_float32()
    if not np.isfinite(values).all():
        raise AdapterError(f"{location.path}: {location.name} holds NaN or infinite numbers; it is damaged")
    values = values.T if is_transposed(part.name) else values
    parameter.set_value(paddle.to_tensor(np.ascontiguousarray(values[part.slices])).astype(parameter.dtype))
