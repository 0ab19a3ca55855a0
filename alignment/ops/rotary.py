"""Rotary position embedding (Su et al. 2021, equation 34), pairing the two halves of a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle.autograd import PyLayer


@dataclass(frozen=True, slots=True)
class RotaryTables:
    """Factors of one rotation in the shape of the tensor they multiply (Paddle's broadcasts are slow on a CPU)."""

    cos: paddle.Tensor
    """[rows, heads * D]"""
    sin: paddle.Tensor
    """[rows, heads * D], negated in the first half of each head."""
    swap: paddle.Tensor
    """[rows * heads * 2] int64: indices of half-heads in swapped order."""


class PositionTables:
    """Rotary factors of all positions so far, computed once and gathered by position."""

    def __init__(self, frequencies: np.ndarray, scale: float, long_frequencies: np.ndarray | None = None) -> None:
        """``frequencies`` [D/2] in radians per token; ``scale`` multiplies cosines and sines.

        ``long_frequencies`` are those of tokens in long rows; None: the same.
        """
        self._scale = scale
        self._kinds = [frequencies] if long_frequencies is None else [frequencies, long_frequencies]
        self._length, self._table = 0, np.empty(0)
        self._sides: tuple[paddle.Tensor, ...] = ()

    def rotations(self, positions: np.ndarray, is_long: np.ndarray | None = None) -> np.ndarray:
        """Return ``rotation_tables`` of ``positions`` [M]; ``is_long`` [M]: True in long rows (None: nowhere)."""
        self._reach(int(positions.max(initial=0)) + 1)
        rows = positions if is_long is None else positions + is_long * self._length
        return np.take(self._table, rows, axis=1)

    def at(
        self,
        positions: paddle.Tensor,
        *,
        heads: int,
        longest: int,
        dtype: Any,
        factor: float = 1.0,
        is_long: np.ndarray | None = None,
    ) -> RotaryTables:
        """Return the tables for ``heads`` heads at ``positions`` [M] below ``longest``, times ``factor``, in ``dtype``.

        They are computed in float32. ``is_long`` as in ``rotations``.
        """
        self._reach(longest)
        if not self._sides:
            cos, sin = self._table
            self._sides = tuple(paddle.to_tensor(np.concatenate(pair, 1)) for pair in ((cos, cos), (-sin, sin)))
        if is_long is not None:  # the tables of long rows stand after the others
            positions = positions + paddle.to_tensor(is_long.astype(np.int64) * self._length)
        sides = (paddle.gather(side, positions) for side in self._sides)
        cos, sin = (x if factor == 1.0 else x.scale_(factor) for x in sides)
        halves = paddle.arange(positions.shape[0] * heads * 2).reshape([-1, 2])
        cos, sin = (paddle.tile(x, [1, heads]).astype(dtype) for x in (cos, sin))
        return RotaryTables(cos, sin, halves.flip(1).flatten())

    def _reach(self, longest: int) -> None:
        """Have the table of at least ``longest`` positions: up to the next power of two."""
        if longest <= self._length:
            return
        self._length = 1 << (longest - 1).bit_length()
        kinds = [rotation_tables(np.arange(self._length), kind, scale=self._scale) for kind in self._kinds]
        self._table, self._sides = np.concatenate(kinds, axis=1), ()


def rotation_tables(positions: np.ndarray, inverse_frequencies: np.ndarray, *, scale: float) -> np.ndarray:
    """Return cosines and sines [2, rows, D/2] float32 times ``scale`` of ``positions`` [rows] and frequencies.

    These are [D/2], or of each row [rows, D/2].
    """
    angles = positions.astype(np.float32)[:, None] * inverse_frequencies.astype(np.float32)
    return np.stack([np.cos(angles), np.sin(angles)]) * np.float32(scale)


def apply_rotary(x: paddle.Tensor, tables: RotaryTables) -> paddle.Tensor:
    """Rotate queries or keys x [rows, heads * D] by the positions of ``tables``."""
    return _Rotary.apply(x, tables)


def swap_halves(x: paddle.Tensor, swap: paddle.Tensor) -> paddle.Tensor:
    """Swap the two halves of every head of x [rows, heads * D]."""
    halves = x.reshape([swap.shape[0], -1])
    return paddle.gather(halves, swap).reshape(x.shape)


class _Rotary(PyLayer):
    """y = x cos + swap(x) sin; swapping is its own inverse, so dx = g cos + swap(g sin)."""

    @staticmethod
    def forward(ctx, x, tables):
        ctx.tables = tables
        return swap_halves(x, tables.swap).multiply_(tables.sin).add_(x * tables.cos)

    @staticmethod
    def backward(ctx, grad):
        tables = ctx.tables
        return swap_halves(grad * tables.sin, tables.swap).add_(grad * tables.cos)
