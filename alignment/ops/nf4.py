"""Weights in 4 bits: NF4 (Dettmers et al. 2023, QLoRA), and products with them.

I inputs, O outputs. A weight is stored as Hugging Face stores it, [O, I]; each run of ``BLOCK`` inputs of an output has
one scale, its largest magnitude. A number takes 4.5 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle.autograd import PyLayer

BLOCK = 64
"""Consecutive inputs that share a scale."""
LEVELS = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
"""The 16 numbers of NF4 (QLoRA, appendix E): quantiles of a normal distribution, with an exact zero."""
_MIDDLES = (LEVELS[1:] + LEVELS[:-1]) / 2
_PAIRS = np.stack([np.repeat(LEVELS, 16), np.tile(LEVELS, 16)], axis=1)
"""The two numbers of each byte, the one in its upper half first: [256, 2]."""
_NUMBERS_AT_ONCE = 2**22
"""How many numbers of a weight exist unpacked at a time in a product."""


@dataclass(frozen=True, slots=True)
class Nf4Weight:
    """A weight in 4 bits."""

    codes: paddle.Tensor
    """[O, I / 2] uint8: two inputs per byte."""
    scales: paddle.Tensor
    """[O, I / BLOCK] float32."""

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        return self.codes.shape[0], 2 * self.codes.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.shape[0] * self.codes.shape[1] + 4 * self.scales.shape[0] * self.scales.shape[1]

    def unpack(self, rows: slice = slice(None), *, dtype: Any = "float32") -> paddle.Tensor:
        """Return the numbers of the outputs ``rows`` as ``dtype``, [len(rows), I]."""
        codes, scales = self.codes[rows], self.scales[rows]
        pairs = paddle.gather(paddle.to_tensor(_PAIRS, place=codes.place), codes.astype("int32").flatten())
        numbers = pairs.reshape([*scales.shape, BLOCK]) * scales.unsqueeze(-1)
        return numbers.reshape([codes.shape[0], 2 * codes.shape[1]]).astype(dtype)

    def pieces(self) -> list[slice]:
        """Return slices of the outputs whose numbers are unpacked at once."""
        outputs, inputs = self.shape
        step = max(1, _NUMBERS_AT_ONCE // inputs)
        return [slice(start, min(start + step, outputs)) for start in range(0, outputs, step)]


def quantise(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (codes [O, I / 2] uint8, scales [O, I / BLOCK] float32) of ``weight`` [O, I].

    Each number becomes the nearest of the levels times the scale of its block; a block of zeros stays zero.
    ValueError unless I is a multiple of BLOCK.
    """
    outputs, inputs = weight.shape
    if inputs % BLOCK:
        raise ValueError(f"{inputs} inputs are not a multiple of {BLOCK}")
    blocks = weight.astype(np.float32).reshape(outputs, inputs // BLOCK, BLOCK)
    scales = np.abs(blocks).max(axis=-1)
    relative = blocks / np.where(scales, scales, 1)[..., None]
    numbers = np.searchsorted(_MIDDLES, relative.reshape(outputs, inputs), side="left").astype(np.uint8)
    return numbers[:, ::2] << 4 | numbers[:, 1::2], scales


class _Nf4Product(PyLayer):
    """x @ weight.T without a gradient of the weight; the backward pass unpacks the weight again."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        products = [paddle.matmul(x, weight.unpack(rows, dtype=x.dtype), transpose_y=True) for rows in weight.pieces()]
        return products[0] if len(products) == 1 else paddle.concat(products, axis=-1)

    @staticmethod
    def backward(ctx, grad):
        total = None
        for rows in ctx.weight.pieces():
            added = paddle.matmul(grad[..., rows], ctx.weight.unpack(rows, dtype=grad.dtype))
            total = added if total is None else total.add_(added)
        return total


def nf4_product(x: paddle.Tensor, weight: Nf4Weight) -> paddle.Tensor:
    """Return x @ weight.T, [..., O], for x [..., I]; x gets a gradient, the weight none."""
    return _Nf4Product.apply(x, weight)
