"""The activation of a feed-forward block, by the name that ``DecoderConfig.activation`` gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import paddle
import paddle.nn.functional as F

from alignment.ops.swiglu import swiglu

ACTIVATIONS: Mapping[str, Callable[[paddle.Tensor], paddle.Tensor]] = MappingProxyType(
    {"silu": F.silu, "gelu_tanh": partial(F.gelu, approximate=True), "gelu": F.gelu, "relu": F.relu}
)
"""Functions of one tensor."""


def gated(kind: str, gate: paddle.Tensor, up: paddle.Tensor) -> paddle.Tensor:
    """Return ``activation(gate) * up`` elementwise."""
    return swiglu(gate, up) if kind == "silu" else ACTIVATIONS[kind](gate) * up
