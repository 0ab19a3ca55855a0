"""Layers with Hugging Face parameter names; matrices start as zeros, norm scales as ones.

Sizes are those that this process holds; communication is in ``parallel.tensor.regions``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import paddle
from paddle import nn

from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.family import Weight
from alignment.errors import AdapterError
from alignment.models.decoder.adapter_use import ADAPTED, AdapterUse
from alignment.ops.embedding import embedding, scale_embedding
from alignment.ops.linear import add_bias, linear
from alignment.ops.nf4 import BLOCK, Nf4Weight, nf4_product
from alignment.ops.rms_norm import NORM_OFFSETS, layer_norm, mean_square, offset_weight, rms_norm, scale_to
from alignment.parallel.comms.group import ALONE, Group
from alignment.parallel.tensor.regions import TensorRegion, embed_rows, enter


class Linear(nn.Layer):
    """``x @ weight + bias`` with weight [in, out], plus what an adapter adds to the product."""

    def __init__(self, num_inputs: int, num_outputs: int, *, bias: bool, dtype: str, four_bit: bool = False) -> None:
        """AdapterError if the weight is to be held in 4 bits and ``num_inputs`` are not whole blocks."""
        super().__init__(dtype=dtype)
        self.packed: Nf4Weight | None = None
        """The frozen weight in 4 bits; ``weight`` is None then."""
        if four_bit:
            self.packed, self.weight = _zeros_in_4_bits(num_inputs, num_outputs), None
        else:
            self.weight = constant_parameter(self, [num_inputs, num_outputs], 0.0, dtype=dtype)
        self.bias = constant_parameter(self, [num_outputs], 0.0, dtype=dtype) if bias else None
        self.branch: Callable[[paddle.Tensor, AdapterUse], paddle.Tensor] | None = None
        """The adapter's part of the product; None: there is no adapter (``models.adapters.attach``)."""

    def forward(self, x: paddle.Tensor, use: AdapterUse = ADAPTED) -> paddle.Tensor:
        """Return [..., out] for x [..., in]."""
        y = self.product(x, use)
        return y if self.bias is None else add_bias(y, self.bias)

    def product(self, x: paddle.Tensor, use: AdapterUse) -> paddle.Tensor:
        """Return [..., out] without the bias: the product of the base, and the adapter's part where it is on."""
        y = linear(x, self.weight) if self.packed is None else nf4_product(x, self.packed)
        return y if self.branch is None or not use.is_on else y + self.branch(x, use)


class RowParallelLinear(Linear):
    """A row-parallel Linear: the partial products of all processes are summed, then the bias is added."""

    def forward(self, x: paddle.Tensor, region: TensorRegion, use: AdapterUse = ADAPTED) -> paddle.Tensor:
        """Return [rows, out] for x [M, in]."""
        y = region.leave(self.product(x, use))
        return y if self.bias is None else add_bias(y, self.bias)


class RmsNorm(nn.Layer):
    """Root mean square normalisation over the last axis, with a learned scale: the weight plus ``offset``."""

    def __init__(self, width: int, *, eps: float, dtype: str, offset: float = 0.0) -> None:
        super().__init__(dtype=dtype)
        self.weight = constant_parameter(self, [width], 1.0 - offset, dtype=dtype)
        self.eps, self._offset = eps, offset

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return x [..., width] normalised."""
        return rms_norm(x, offset_weight(self.weight, self._offset), self.eps)


class AllHeadsNorm(RmsNorm):
    """Root mean square normalisation of all heads of a token together, of which this process may hold some."""

    def forward(self, x: paddle.Tensor, group: Group = ALONE) -> paddle.Tensor:
        """Return x [rows, width] normalised by the heads of all processes of ``group``."""
        if group.size == 1:
            return super().forward(x)
        # Each has equally many, copied heads included, so the mean of the means is that of all heads.
        mean = enter(TensorRegion(group).leave(mean_square(x) / group.size), group)
        return scale_to(x, mean, self.weight, self.eps)


class LayerNorm(nn.Layer):
    """Normalisation to mean 0 and variance 1 over the last axis, with a learned scale and bias."""

    def __init__(self, width: int, *, eps: float, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.weight = constant_parameter(self, [width], 1.0, dtype=dtype)
        self.bias = constant_parameter(self, [width], 0.0, dtype=dtype)
        self.eps = eps

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return x [..., width] normalised."""
        return layer_norm(x, self.weight, self.bias, self.eps)


class Positions(nn.Layer):
    """Learned vectors of positions; ``weight`` [rows, width] begins ``offset`` rows before position 0."""

    def __init__(self, num_rows: int, width: int, *, offset: int, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.weight = constant_parameter(self, [num_rows, width], 0.0, dtype=dtype)
        self._offset = offset

    def forward(self, positions: paddle.Tensor, region: TensorRegion) -> paddle.Tensor:
        """Return [rows, width] for positions [M] int64: those of the tokens that this process holds."""
        return embedding(region.own(positions) + self._offset, self.weight)


class Embedding(nn.Layer):
    """Token embedding times ``scale``; ``weight`` [rows, width] holds the vocabulary from token ``first_row`` on."""

    def __init__(self, num_rows: int, width: int, *, first_row: int = 0, dtype: str, scale: float = 1.0) -> None:
        super().__init__(dtype=dtype)
        self.weight = constant_parameter(self, [num_rows, width], 0.0, dtype=dtype)
        self.first_row, self._scale = first_row, scale

    def forward(self, ids: paddle.Tensor, region: TensorRegion) -> paddle.Tensor:
        """Return [rows, width] for ids [M] int64."""
        if region.group.size == 1:
            return scale_embedding(embedding(ids, self.weight), self._scale)
        rows = embed_rows(ids, self.weight, first_row=self.first_row, look_up=embedding)
        return region.leave(scale_embedding(rows, self._scale))


class RoleLayers(nn.Layer):
    """Sublayers named as in a family's table and looked up by role."""

    def __init__(self, layers: Mapping[str, tuple[str, nn.Layer]]) -> None:
        """``layers`` maps a role to (name, layer), in parameter order."""
        super().__init__()
        self._names = {role: name for role, (name, _) in layers.items()}
        for name, layer in layers.values():
            self.add_sublayer(name, layer)

    def __getitem__(self, role: str) -> nn.Layer:
        return self._sub_layers[self._names[role]]

    def get(self, role: str) -> nn.Layer | None:
        """Return the layer for ``role``, None if the model has none."""
        return self[role] if role in self._names else None


def build_layer(
    weight: Weight,
    shapes: Mapping[str, tuple[int, ...]],
    config: DecoderConfig | None = None,
    *,
    dtype: str,
    four_bit: bool,
) -> Linear | RmsNorm | LayerNorm:
    """Return the layer for one ``weight`` of a table; ``shapes`` (by name) give its size and whether it has a bias.

    Norms need the ``config``.
    """
    shape = shapes[f"{weight.name}.weight"]
    if weight.cut_dimension in ("queries", "keys") and weight.kind == "norm":
        return AllHeadsNorm(shape[0], eps=config.rms_norm_eps, dtype=dtype)
    if weight.kind == "norm":
        return build_norm(shape[0], config, dtype=dtype)
    kind = RowParallelLinear if weight.cut == "rows" else Linear
    return kind(*shape, bias=f"{weight.name}.bias" in shapes, dtype=dtype, four_bit=four_bit)


def build_norm(width: int, config: DecoderConfig, *, dtype: str) -> RmsNorm | LayerNorm:
    """Return the normalisation of ``width`` numbers that the family of ``config`` has."""
    if config.family.norm == "layer":
        return LayerNorm(width, eps=config.rms_norm_eps, dtype=dtype)
    return RmsNorm(width, eps=config.rms_norm_eps, dtype=dtype, offset=NORM_OFFSETS[config.family.norm])


def packed_layers(model: nn.Layer) -> Iterator[tuple[str, Linear]]:
    """Yield (name of the weight, layer) of the layers of ``model`` whose weight is held in 4 bits."""
    for name, layer in model.named_sublayers():
        if isinstance(layer, Linear) and layer.packed is not None:
            yield f"{name}.weight", layer


def unpacked_weights(model: nn.Layer, *, dtype: paddle.dtype) -> Iterator[tuple[str, paddle.Tensor]]:
    """Yield (name, weight [in, out] as ``dtype``) of these layers, one unpacked at a time."""
    for name, layer in packed_layers(model):
        yield name, layer.packed.unpack(dtype=dtype).t()


def _zeros_in_4_bits(num_inputs: int, num_outputs: int) -> Nf4Weight:
    if num_inputs % BLOCK:
        raise AdapterError(
            f"load_in_4bit: a matrix of the layers has {num_inputs} inputs on each process, which must be a multiple "
            f"of {BLOCK}, the numbers that share a scale; tensor_parallel_degree divides some inputs"
        )
    codes = paddle.zeros([num_outputs, num_inputs // 2], "uint8")
    return Nf4Weight(codes, paddle.zeros([num_outputs, num_inputs // BLOCK], "float32"))


class NumberedLayers(nn.Layer):
    """The decoder layers of this process, by their number in the whole model."""

    def __init__(self, layers: dict[int, nn.Layer]) -> None:
        super().__init__()
        for number, layer in layers.items():
            self.add_sublayer(str(number), layer)

    def __getitem__(self, number: int) -> nn.Layer:
        return self._sub_layers[str(number)]

    def __len__(self) -> int:
        return len(self._sub_layers)


def constant_parameter(layer: nn.Layer, shape: list[int], value: float, *, dtype: str) -> paddle.Tensor:
    """Return a new trainable parameter of ``layer`` filled with ``value``; Paddle's random state is left alone."""
    return layer.create_parameter(shape, dtype=dtype, default_initializer=nn.initializer.Constant(value))
