"""Rotary position embedding (Su et al. 2021, equation 34) with the two halves of a head rotated against each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
from paddle.autograd import PyLayer


@dataclass(frozen=True, slots=True)
class RotaryTables:
    """Factors of one rotation, laid out like the tensor they multiply (Paddle broadcasts slowly on a CPU)."""

    cos: paddle.Tensor
    """[rows, heads * D]"""
    sin: paddle.Tensor
    """[rows, heads * D], negated in the first half of each head."""
    swap: paddle.Tensor
    """[rows * heads * 2] int64: takes half-heads in exchanged order."""

    @classmethod
    def build(
        cls, positions: np.ndarray, inverse_frequencies: np.ndarray, *, heads: int, scale: float, dtype
    ) -> RotaryTables:
        """Build for ``positions`` [rows]; frequencies [D/2] in radians a token, ``scale`` multiplies both tables."""
        cos, sin = rotation_tables(positions, inverse_frequencies, scale=scale)
        rows = np.arange(len(positions) * heads * 2)
        return cls(
            cos=_tile(np.concatenate([cos, cos], 1), heads, dtype),
            sin=_tile(np.concatenate([-sin, sin], 1), heads, dtype),
            swap=paddle.to_tensor(rows ^ 1),
        )


def rotation_tables(positions: np.ndarray, inverse_frequencies: np.ndarray, *, scale: float) -> np.ndarray:
    """Return cosines and sines [2, rows, D/2] float32 times ``scale`` of ``positions`` [rows] and frequencies [D/2]."""
    angles = positions.astype(np.float32)[:, None] * inverse_frequencies.astype(np.float32)[None, :]
    return np.stack([np.cos(angles), np.sin(angles)]) * np.float32(scale)


def _tile(table: np.ndarray, heads: int, dtype) -> paddle.Tensor:
    return paddle.to_tensor(np.tile(table, (1, heads))).astype(dtype)


def apply_rotary(x: paddle.Tensor, tables: RotaryTables) -> paddle.Tensor:
    """Rotate queries or keys x [rows, heads * D] by the positions of ``tables``."""
    return _Rotary.apply(x, tables)


def swap_halves(x: paddle.Tensor, swap: paddle.Tensor) -> paddle.Tensor:
    """Exchange the two halves of every head of x [rows, heads * D]."""
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
