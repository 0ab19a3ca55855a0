"""Row orders between projections (token by token) and attention (head by head)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle

from alignment.ops.native.training_ops import RaggedHeads

_MASKED = -1e30


@dataclass(frozen=True, slots=True)
class HeadOrder:
    """Moves rows of one head's D numbers between the orders (token, head) and (sequence, head, position).

    Taking rows by index costs a hundredth of Paddle's transpose on a CPU.
    """

    count: int
    """Heads."""
    to_heads: paddle.Tensor
    """[n * count * S] int64; padding takes the row after the last, which is zero."""
    to_tokens: paddle.Tensor
    """[M * count] int64, the way back."""
    padded: bool
    """True: some of the n * S positions are padding, so M is smaller."""

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


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """Shape, orders and mask of one attention call; built once for all layers of a forward pass."""

    length: int
    """S positions of each of the n sequences."""
    window: int | None
    """A query sees this many tokens, itself included; None: all before it."""
    queries: HeadOrder
    keys: HeadOrder
    mask: paddle.Tensor
    """[S * S], 0 where the key may be seen, very negative elsewhere."""
    ragged: RaggedHeads
    """The same for compiled kernels."""

    @classmethod
    def build(
        cls, lengths: np.ndarray, *, num_heads: int, num_kv_heads: int, dtype, window: int | None = None
    ) -> HeadLayout:
        """Build for sequences of ``lengths`` [n] real tokens, padded to the longest; the mask gets ``dtype``."""
        longest = int(lengths.max())
        position = np.arange(longest)
        distance = position[:, None] - position[None, :]
        hidden = (distance < 0) | (distance >= (window or longest))
        mask = np.where(hidden, np.float32(_MASKED), np.float32(0)).reshape(-1)
        real = position[None, :] < lengths[:, None]
        queries = HeadOrder.build(real, num_heads)
        keys = queries if num_kv_heads == num_heads else HeadOrder.build(real, num_kv_heads)
        ragged = RaggedHeads.build(lengths, num_heads=num_heads, num_kv_heads=num_kv_heads, window=window)
        return cls(longest, window, queries, keys, paddle.to_tensor(mask).astype(dtype), ragged)

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.queries.count // self.keys.count
