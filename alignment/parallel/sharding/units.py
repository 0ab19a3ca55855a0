"""Find the units of a model: layers whose parameters are gathered and reduced together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from paddle import nn


@dataclass(frozen=True)
class Unit:
    """A layer with the names of all parameters it uses, even if shared with another unit."""

    layer: nn.Layer
    names: tuple[str, ...]


def find_units(model: nn.Layer) -> list[Unit]:
    """Return the units of ``model``: each decoder layer as a whole, and every other layer with its own parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        Unit(layer, tuple(names[id(parameter)] for parameter in parameters))
        for layer, parameters in _visit(model, is_whole=False)
        if parameters
    ]


def _visit(layer: nn.Layer, *, is_whole: bool) -> Iterator[tuple[nn.Layer, list]]:
    if is_whole:
        yield layer, layer.parameters()
        return
    yield layer, layer.parameters(include_sublayers=False)
    children = layer.named_children()
    for name, child in children:
        # Numbered children are the layers of a stack (or of a Sequential).
        yield from _visit(child, is_whole=name.isdigit())
