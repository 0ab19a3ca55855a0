"""Reorder rows between projections (by token) and attention (by head)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import paddle

from alignment.ops.native.training_ops import RaggedHeads

_MASKED = -1e30


@dataclass(frozen=True, slots=True)
class HeadOrder:
    """Moves rows of one head's D numbers between the orders (token, head) and (sequence, head, position).

    On a CPU, gathering rows by index takes a hundredth of the time of Paddle's transpose.
    """

    count: int
    """Number of heads."""
    to_heads: paddle.Tensor
    """[n * count * S] int64; padding refers to a zero row after the last."""
    to_tokens: paddle.Tensor
    """[M * count] int64, the inverse."""
    padded: bool
    """Whether some of the n * S positions are padding."""

    @classmethod
    def build(cls, real: np.ndarray, count: int) -> HeadOrder:
        """Build for ``real`` [n, S] bool, True on the M real tokens."""
        num_rows, length = real.shape
        num_tokens = int(real.sum())
        token = np.full(real.shape, num_tokens)
        token[real] = np.arange(num_tokens)
        away = token[:, None, :] * count + np.arange(count)[None, :, None]
        back = np.arange(num_rows * count * length).reshape(num_rows, count, length).transpose(0, 2, 1)[real]
        rows = np.minimum(away, num_tokens * count).reshape(-1)
        return cls(count, paddle.to_tensor(rows), paddle.to_tensor(back.reshape(-1)), not real.all())

    def spread(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return x [M, count * D] head by head, [n * count * S, D], zero on padding."""
        rows = x.reshape([-1, x.shape[1] // self.count])
        if self.padded:
            rows = paddle.concat([rows, paddle.zeros([1, rows.shape[1]], rows.dtype)])
        return paddle.gather(rows, self.to_heads)

    def collect(self, heads: paddle.Tensor) -> paddle.Tensor:
        """Return heads [n * count * S, D] token by token, [M, count * D]."""
        return paddle.gather(heads, self.to_tokens).reshape([-1, self.count * heads.shape[1]])


@dataclass(frozen=True, kw_only=True)
class HeadLayout:
    """What all attention calls of a forward pass over n sequences share, computed when needed."""

    lengths: np.ndarray
    """[n] real tokens of each sequence; rows are padded to the longest, S."""
    num_heads: int
    num_kv_heads: int
    window: int | None
    """How many tokens a query sees, itself included; None: all before it."""
    dtype: Any
    """The mask's dtype."""
    cap: float = 0.0
    """Scores x become cap tanh(x / cap); 0: they stay."""

    @classmethod
    def build(
        cls,
        lengths: np.ndarray,
        *,
        num_heads: int,
        num_kv_heads: int,
        dtype,
        window: int | None = None,
        cap: float = 0.0,
    ) -> HeadLayout:
        """Build for sequences of ``lengths`` [n]; a ``window`` that no sequence exceeds is dropped."""
        window = None if window is None or window >= lengths.max() else window
        sizes = {"num_heads": num_heads, "num_kv_heads": num_kv_heads}
        return cls(lengths=lengths, window=window, dtype=dtype, cap=cap, **sizes)

    @property
    def length(self) -> int:
        """S, the length of the longest sequence."""
        return int(self.lengths.max())

    @property
    def group(self) -> int:
        """Number of query heads per key head."""
        return self.num_heads // self.num_kv_heads

    def head_dim(self, q: paddle.Tensor) -> int:
        """Return D of q [M, heads * D]."""
        return q.shape[1] // self.num_heads

    @cached_property
    def queries(self) -> HeadOrder:
        """The order of query heads."""
        return HeadOrder.build(self._real, self.num_heads)

    @cached_property
    def keys(self) -> HeadOrder:
        """The order of key heads."""
        return self.queries if self.group == 1 else HeadOrder.build(self._real, self.num_kv_heads)

    @cached_property
    def mask(self) -> paddle.Tensor:
        """[S * S], 0 for visible keys, very negative for others."""
        position = np.arange(self.length)
        distance = position[:, None] - position[None, :]
        hidden = (distance < 0) | (distance >= (self.window or self.length))
        mask = np.where(hidden, np.float32(_MASKED), np.float32(0)).reshape(-1)
        return paddle.to_tensor(mask).astype(self.dtype)

    @cached_property
    def starts(self) -> paddle.Tensor:
        """[n + 1] int32: the first token of each sequence, then the number of tokens M."""
        return paddle.to_tensor(self.ragged.starts)

    @cached_property
    def unseen_from(self) -> paddle.Tensor:
        """[M] int32: the first token, counted over all sequences, that no longer sees each token."""
        ends = np.cumsum(self.lengths)
        end = np.repeat(ends, self.lengths)
        last = end if self.window is None else np.minimum(np.arange(ends[-1]) + self.window, end)
        return paddle.to_tensor(last.astype(np.int32))

    @cached_property
    def ragged(self) -> RaggedHeads:
        """The same for compiled kernels."""
        sizes = {"num_heads": self.num_heads, "num_kv_heads": self.num_kv_heads}
        return RaggedHeads.build(self.lengths, window=self.window, cap=self.cap, **sizes)

    @property
    def _real(self) -> np.ndarray:
        return np.arange(self.length)[None, :] < self.lengths[:, None]
