"""Freshly drawn weights."""

from __future__ import annotations

import zlib

import numpy as np
import paddle
from paddle import nn


def draw_weights(model: nn.Layer, *, seed: int, std: float) -> None:
    """Draw every matrix of ``model`` from N(0, std^2); biases become 0 and norm scales 1.

    A parameter's values depend on ``seed``, its name and its shape only, so the order in which a layout creates
    parameters does not matter.
    """
    for name, parameter in model.named_parameters():
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if len(parameter.shape) > 1:
            values = generator.standard_normal(parameter.shape, np.float32) * np.float32(std)
        else:
            values = np.full(parameter.shape, float(name.endswith("norm.weight")), np.float32)
        with paddle.no_grad():
            parameter.set_value(paddle.to_tensor(values).astype(parameter.dtype))
