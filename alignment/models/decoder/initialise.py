"""Random initialisation of weights."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import paddle
from paddle import nn

from alignment.architecture.parts import Part


def draw_weights(model: nn.Layer, *, seed: int, std: float) -> None:
    """Draw every matrix of ``model`` from N(0, std^2); biases and norms keep what a new model has.

    A parameter's values depend only on ``seed``, its name and its unsplit shape: a process that holds a part of it (by
    the ``parts`` of a language or score model) draws the whole and keeps that part, so all layouts start alike.
    """
    parts: Mapping[str, Part] = getattr(model, "parts", {})
    for name, parameter in model.named_parameters():
        part = parts.get(name) or Part.whole(name, parameter.shape)
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if len(part.shape) == 1:
            continue
        values = generator.standard_normal(part.shape, np.float32)[part.slices] * np.float32(std)
        with paddle.no_grad():
            parameter.set_value(paddle.to_tensor(values).astype(parameter.dtype))


def draw_gating(network: nn.Layer, *, seed: int) -> None:
    """Draw the layers of a gating network for ReLU (He et al. 2015), so that all of them learn; biases become 0."""
    for number, layer in enumerate(network.children()):
        draw_weights(layer, seed=seed + number, std=math.sqrt(2 / layer.weight.shape[0]))
