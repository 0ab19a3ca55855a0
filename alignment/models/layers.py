"""Parameters with Hugging Face names around the operators; drawn or read elsewhere, zero until then."""

from __future__ import annotations

import paddle
from paddle import nn

from alignment.ops.linear import linear
from alignment.ops.rms_norm import rms_norm


class Linear(nn.Layer):
    """``x @ weight + bias`` with weight [in, out]."""

    def __init__(self, num_inputs: int, num_outputs: int, *, bias: bool, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.weight = constant_parameter(self, [num_inputs, num_outputs], 0.0, dtype=dtype)
        self.bias = constant_parameter(self, [num_outputs], 0.0, dtype=dtype) if bias else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [..., out] for x [..., in]."""
        return linear(x, self.weight, self.bias)


class RmsNorm(nn.Layer):
    """Root mean square normalisation over the last axis, with a learned scale."""

    def __init__(self, width: int, *, eps: float, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.weight = constant_parameter(self, [width], 1.0, dtype=dtype)
        self.eps = eps

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return x [..., width] normalised."""
        return rms_norm(x, self.weight, self.eps)


class Embedding(nn.Layer):
    """Rows of ``weight`` [vocabulary, width] by token id."""

    def __init__(self, vocab_size: int, width: int, *, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.weight = constant_parameter(self, [vocab_size, width], 0.0, dtype=dtype)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        """Return [..., width] for ids [...] int64."""
        return nn.functional.embedding(ids, self.weight)


def constant_parameter(layer: nn.Layer, shape: list[int], value: float, *, dtype: str) -> paddle.Tensor:
    """Create a trainable parameter of ``layer`` filled with ``value``, without touching Paddle's random state."""
    return layer.create_parameter(shape, dtype=dtype, default_initializer=nn.initializer.Constant(value))
