"""Copy the tensors of a model folder into parameters, after checking that names and shapes fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import paddle

from alignment.architecture.parts import Part
from alignment.errors import ModelFolderError
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.layers import Linear, packed_layers
from alignment.models.decoder.score_model import ScoreModel
from alignment.models.folders.naming import NORMALIZER_PREFIX, is_transposed, match_names, refuse_mismatch
from alignment.models.folders.views import StoredTensor
from alignment.ops.nf4 import quantise
from alignment.telemetry import log

_ROWS_COMPARED = 4096


def take_statistics(found: dict[str, StoredTensor]) -> dict[str, float]:
    """Remove safe-rlhf's ``normalizer.*`` scalars from ``found``; return their values without the prefix."""
    names = [name for name in found if name.startswith(NORMALIZER_PREFIX)]
    stored = {name.removeprefix(NORMALIZER_PREFIX): found.pop(name) for name in names}
    return {name: float(np.ravel(at.read().as_float32())[0]) for name, at in stored.items() if np.prod(at.shape) == 1}


def are_equal(first: StoredTensor, second: StoredTensor) -> bool:
    """Return whether two tensors hold the same numbers, reading a block of rows at a time."""
    if first.shape != second.shape:
        return False
    for start in range(0, first.shape[0], _ROWS_COMPARED):
        rows = (slice(start, start + _ROWS_COMPARED),)
        if not np.array_equal(first.read(rows).as_float32(), second.read(rows).as_float32()):
            return False
    return True


def check_tensors(
    found: Mapping[str, StoredTensor],
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
    *,
    allowed_missing: Collection[str] = (),
    allowed_unknown: Collection[str] = (),
) -> None:
    """Raise ModelFolderError unless ``found`` fits the parameters of the unsplit model, given by their ``shapes``."""
    for name, stored in found.items():
        _check_shape(stored, name, shapes.get(name), folder)
    match = match_names(shapes, found)
    missing = [name for name in match.missing if name not in allowed_missing]
    for name in match.missing:
        if name in allowed_missing:
            log.info(f"{folder}: has no {name}; it keeps its initial values")
    unknown = [name for name in match.unknown if name not in allowed_unknown]
    heads = [found[name].name for name in unknown if _is_head(found[name], shapes)]
    refuse_mismatch(match._replace(missing=missing, unknown=unknown), folder=str(folder), heads=heads)


def fill(model: CausalLM | ScoreModel, found: Mapping[str, StoredTensor], folder: Path) -> None:
    """Copy this process's part of each tensor into its parameter; ModelFolderError for NaN or infinite weights."""
    for name, parameter in model.named_parameters():
        if name in found:
            _assign(parameter, found[name], model.parts[name], folder)
    for name, layer in packed_layers(model):
        _assign_in_4_bits(layer, found[name], model.parts[name], folder)


def _is_head(stored: StoredTensor, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether a tensor could be the weight of a score head."""
    wanted = shapes.get("score.weight")
    return wanted is not None and stored.shape in (wanted, wanted[::-1], wanted[:1]) and "norm" not in stored.name


def _check_shape(stored: StoredTensor, name: str, shape: tuple[int, ...] | None, folder: Path) -> None:
    """Raise ModelFolderError unless ``stored`` has the parameter's ``shape`` (None: no such parameter, no check)."""
    if shape is None:
        return
    needed = shape[::-1] if is_transposed(name) else shape
    if stored.shape != needed:
        raise ModelFolderError(
            f"{folder}: {stored.name} has shape {list(stored.shape)}, config.json needs {list(needed)}"
        )
    if not stored.is_float:
        raise ModelFolderError(f"{folder}: {stored.name} has dtype {stored.code}; weights must be floating point")


def _read(stored: StoredTensor, part: Part, folder: Path) -> np.ndarray:
    """Return the numbers of ``part`` as float32, in the file's orientation."""
    values = stored.read(part.slices[::-1] if is_transposed(part.name) else part.slices).as_float32()
    if not np.isfinite(values).all():
        raise ModelFolderError(f"{folder}: {stored.name} holds NaN or infinite numbers; its weights are damaged")
    return values


def _assign_in_4_bits(layer: Linear, stored: StoredTensor, part: Part, folder: Path) -> None:
    codes, scales = quantise(_read(stored, part, folder))
    layer.packed.codes.set_value(paddle.to_tensor(codes))
    layer.packed.scales.set_value(paddle.to_tensor(scales))


def _assign(parameter: paddle.Tensor, stored: StoredTensor, part: Part, folder: Path) -> None:
    values = _read(stored, part, folder)
    values = np.ascontiguousarray(values.T) if is_transposed(part.name) else values
    with paddle.no_grad():
        parameter.set_value(paddle.to_tensor(values).astype(parameter.dtype))
