"""Merge an adapter into the matrices it adapts: for a rollout's weights, one by one, or for a whole model, in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import paddle

from alignment.architecture.adapter import FACTORS, Adapter, is_factor, module_of
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.score_model import ScoreModel
from alignment.ops.precision import widen


@paddle.no_grad()
def merged_weight(weight: paddle.Tensor, first: paddle.Tensor, second: paddle.Tensor, scaling: float) -> paddle.Tensor:
    """Return weight + scaling * first @ second in the dtype of ``weight``, computed in at least float32."""
    added = paddle.matmul(widen(first), widen(second)) * scaling
    return (widen(weight) + added).astype(weight.dtype)


def merge_stream(tensors: Iterable[tuple[str, Any]], adapter: Adapter) -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) of the base with ``adapter`` merged in, from ``tensors`` of an adapted model.

    They may be the parts of a process; a matrix is held back only until its two factors have come.
    """
    waiting: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors:
        module = module_of(name) if is_factor(name) else name.removesuffix(".weight")
        if module not in adapter.modules:
            yield name, tensor
            continue
        found = waiting.setdefault(module, {})
        found[name.removeprefix(f"{module}.")] = tensor
        if len(found) == 1 + len(FACTORS):
            first, second = (found[f"{factor}.weight"] for factor in FACTORS)
            yield f"{module}.weight", merged_weight(found["weight"], first, second, adapter.scaling)
            del waiting[module]
    assert not waiting, f"a matrix or a factor is missing: {sorted(waiting)[:3]}"


def merge_into_base(model: CausalLM | ScoreModel) -> None:
    """Turn an unsplit adapted ``model`` into the plain model that computes the same."""
    merged = dict(merge_stream(model.named_parameters(), model.adapter))
    layers = dict(model.named_sublayers())
    for module in model.adapter.modules:
        layer = layers[module]
        with paddle.no_grad():
            layer.weight.set_value(merged.pop(f"{module}.weight"))
        layer.branch = None
        for factor in FACTORS:
            del layer._sub_layers[factor]
    model.parts = {name: part for name, part in model.parts.items() if not is_factor(name)}
    model.whole_shapes = {name: shape for name, shape in model.whole_shapes.items() if not is_factor(name)}
    model.adapter = model.model.adapter = None
