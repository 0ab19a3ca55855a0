"""Parameters with Hugging Face names around the operators; drawn or read elsewhere, zero until then.

Layers get the sizes that this process holds; what they do between processes is in ``parallel.tensor.regions``.
"""

from __future__ import annotations

from collections.abc import Mapping

import paddle
from paddle import nn

from alignment.architecture.family import Weight
from alignment.ops.linear import add_bias, linear
from alignment.ops.rms_norm import rms_norm
from alignment.parallel.tensor.regions import TensorRegion, embed_rows


class Linear(nn.Layer):
    """``x @ weight + bias`` with weight [in, out]."""

    def __init__(self, num_inputs: int, num_outputs: int, *, bias: bool, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.weight = constant_parameter(self, [num_inputs, num_outputs], 0.0, dtype=dtype)
        self.bias = constant_parameter(self, [num_outputs], 0.0, dtype=dtype) if bias else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [..., out] for x [..., in]."""
        return linear(x, self.weight, self.bias)


class LeavingLinear(Linear):
    """A Linear whose inputs are cut over the processes of a region: products are summed, then the bias is added."""

    def forward(self, x: paddle.Tensor, region: TensorRegion) -> paddle.Tensor:
        """Return [rows, out] for x [M, in]."""
        y = region.leave(paddle.matmul(x, self.weight))
        return y if self.bias is None else add_bias(y, self.bias)


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
    """Rows of the vocabulary's matrix by token id; ``weight`` [rows, width] holds those from ``first_row`` on."""

    def __init__(self, num_rows: int, width: int, *, first_row: int = 0, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.weight = constant_parameter(self, [num_rows, width], 0.0, dtype=dtype)
        self.first_row = first_row

    def forward(self, ids: paddle.Tensor, region: TensorRegion) -> paddle.Tensor:
        """Return [rows, width] for ids [M] int64."""
        if region.group.size == 1:
            return nn.functional.embedding(ids, self.weight)
        return region.leave(embed_rows(ids, self.weight, first_row=self.first_row))


class RoleLayers(nn.Layer):
    """Layers that have the names of a family's table and are asked for by role."""

    def __init__(self, layers: Mapping[str, tuple[str, nn.Layer]]) -> None:
        """``layers``: (name, layer) by role, in the order of parameters."""
        super().__init__()
        self._names = {role: name for role, (name, _) in layers.items()}
        for name, layer in layers.values():
            self.add_sublayer(name, layer)

    def __getitem__(self, role: str) -> nn.Layer:
        return self._sub_layers[self._names[role]]

    def get(self, role: str) -> nn.Layer | None:
        """Return the layer that has ``role``, None where the model has none."""
        return self[role] if role in self._names else None


def build_layer(weight: Weight, shapes: Mapping[str, tuple[int, ...]], *, eps: float, dtype: str) -> Linear | RmsNorm:
    """Return the layer of one ``weight`` of a table; ``shapes`` (by name in the layer) say how large, and if biased."""
    shape = shapes[f"{weight.name}.weight"]
    if weight.kind == "norm":
        return RmsNorm(shape[0], eps=eps, dtype=dtype)
    kind = LeavingLinear if weight.cut == "rows" else Linear
    return kind(*shape, bias=f"{weight.name}.bias" in shapes, dtype=dtype)


class NumberedLayers(nn.Layer):
    """Layers under their numbers in the whole model, of which this process may hold a few."""

    def __init__(self, layers: dict[int, nn.Layer]) -> None:
        super().__init__()
        for number, layer in layers.items():
            self.add_sublayer(str(number), layer)

    def __getitem__(self, number: int) -> nn.Layer:
        return self._sub_layers[str(number)]

    def __len__(self) -> int:
        return len(self._sub_layers)


def constant_parameter(layer: nn.Layer, shape: list[int], value: float, *, dtype: str) -> paddle.Tensor:
    """Create a trainable parameter of ``layer`` filled with ``value``, without touching Paddle's random state."""
    return layer.create_parameter(shape, dtype=dtype, default_initializer=nn.initializer.Constant(value))
