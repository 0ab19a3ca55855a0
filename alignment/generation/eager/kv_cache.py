"""The key-value cache of the eager engine, written in place.

B rows, C positions per row (the capacity), head size D. Token s of a row is at position s whatever the lengths of other
rows, so a row's results do not depend on them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import paddle

from alignment.generation.eager.room import capacity
from alignment.ops.precision import HALF

_MASKED = -1e30


class CacheShape(NamedTuple):
    """The properties of the cache that the model determines."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None
    dtype: Any
    full_layers: frozenset[int] = frozenset()
    """The layers without the window, by their number in this process."""

    def window_of(self, layer: int) -> int | None:
        """Return the tokens that a query sees in ``layer``; None: all before it."""
        return None if layer in self.full_layers else self.window

    @property
    def folded_scale(self) -> float:
        """The factor of the queries' rotary tables: D^-1/2, or 1 in half precision, to round only once."""
        return 1.0 if self.dtype in HALF else float(self.head_dim) ** -0.5

    @property
    def unfolding(self) -> float:
        """The inverse of ``folded_scale``."""
        return 1.0 if self.dtype in HALF else float(self.head_dim) ** 0.5

    @property
    def step_scale(self) -> float:
        """The remaining factor of D^-1/2 for the scores of a step."""
        return float(self.head_dim) ** -0.5 if self.dtype in HALF else 1.0


class KVCache:
    """A cache for B rows. A step is ``open_step``, ``append`` and ``read`` for each layer, then ``close_step``."""

    def __init__(self, shape: CacheShape, lengths: np.ndarray, *, max_length: int) -> None:
        """Reserve memory for prompts of ``lengths`` [B] in rows of at most ``max_length`` tokens."""
        self.lengths = lengths.copy()
        self._shape = shape
        self._max_length = max_length
        self._capacity = capacity(int(lengths.max()), max_length)
        size = [len(lengths) * shape.num_kv_heads * self._capacity, shape.head_dim]
        self._keys = [paddle.zeros(size, shape.dtype) for _ in range(shape.num_layers)]
        self._values = [paddle.zeros(size, shape.dtype) for _ in range(shape.num_layers)]
        self._index()

    def prompt_slots(self, rows: range) -> paddle.Tensor:
        """Return the indices [M * kv_heads] int64 at which ``write_prompts`` stores the M tokens of ``rows``."""
        lengths = self.lengths[rows.start : rows.stop]
        row = np.repeat(np.asarray(rows), lengths)
        position = np.concatenate([np.arange(length) for length in lengths])
        heads = np.arange(self._shape.num_kv_heads)
        slots = (row[:, None] * len(heads) + heads) * self._capacity + position[:, None]
        return paddle.to_tensor(slots.reshape(-1))

    def write_prompts(self, layer: int, keys: paddle.Tensor, values: paddle.Tensor, slots: paddle.Tensor) -> None:
        """Store keys and values [M, kv_heads * D] of prompt tokens at ``slots``."""
        paddle.scatter_(self._keys[layer], slots, keys.reshape([-1, self._shape.head_dim]))
        paddle.scatter_(self._values[layer], slots, values.reshape([-1, self._shape.head_dim]))

    def open_step(self) -> None:
        """Make room for one more token in every row and unmask it."""
        if int(self.lengths.max()) >= self._capacity:
            self._grow()
        for window, mask in self._masks.items():
            if window is not None:
                self._leave_window(window, mask)
            paddle.scatter_(mask, self._mask_slots, self._zeros)

    def _leave_window(self, window: int, mask: paddle.Tensor) -> None:
        """Mask the token in each row that is ``window`` positions before the new one."""
        rows = np.flatnonzero(self.lengths >= window)
        if len(rows):
            heads = np.arange(self._shape.num_heads)
            first = (rows[:, None] * len(heads) + heads) * self._capacity
            slots = (first + (self.lengths[rows] - window)[:, None]).reshape(-1)
            paddle.scatter_(mask, paddle.to_tensor(slots), paddle.full([len(slots)], _MASKED))

    def append(self, layer: int, keys: paddle.Tensor, values: paddle.Tensor) -> None:
        """Store keys and values [B, kv_heads * D] of each row's newest token."""
        paddle.scatter_(self._keys[layer], self._slots, keys.reshape([-1, self._shape.head_dim]))
        paddle.scatter_(self._values[layer], self._slots, values.reshape([-1, self._shape.head_dim]))

    def read(self, layer: int) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Return views of keys and values, [B * kv_heads, C, D] each."""
        shape = [-1, self._capacity, self._shape.head_dim]
        return self._keys[layer].reshape(shape), self._values[layer].reshape(shape)

    def mask(self, layer: int) -> paddle.Tensor:
        """Return [B * kv_heads, group, C] float32, 0 at positions that ``layer`` sees, very negative at others."""
        group = self._shape.num_heads // self._shape.num_kv_heads
        return self._masks[self._shape.window_of(layer)].reshape([-1, group, self._capacity])

    @property
    def positions(self) -> paddle.Tensor:
        """[B] int64, the position of each row's newest token."""
        return self._positions

    def close_step(self) -> None:
        """Advance every row to its next token."""
        self.lengths += 1
        for index in (self._slots, self._mask_slots, self._positions):
            index.add_(self._one)

    def keep(self, rows: np.ndarray) -> None:
        """Drop all other rows."""
        wanted = paddle.to_tensor(rows)
        for store in (self._keys, self._values):
            for layer, old in enumerate(store):
                kept = paddle.gather(old.reshape([len(self.lengths), -1]), wanted)
                store[layer] = kept.reshape([-1, self._shape.head_dim])
        self.lengths = self.lengths[rows]
        self._index()

    def _grow(self) -> None:
        old, self._capacity = self._capacity, capacity(self._capacity, self._max_length)
        for store in (self._keys, self._values):
            for layer, full in enumerate(store):
                rows = full.reshape([-1, old, self._shape.head_dim])
                more = paddle.zeros([rows.shape[0], self._capacity - old, rows.shape[2]], rows.dtype)
                store[layer] = paddle.concat([rows, more], axis=1).reshape([-1, self._shape.head_dim])
        self._index()

    def _index(self) -> None:
        """Compute the masks, by window, and the indices of each row's next token."""
        shape, count = self._shape, len(self.lengths)
        windows = dict.fromkeys(map(shape.window_of, range(shape.num_layers)))
        self._masks = {window: self._mask_of(window) for window in windows}
        self._slots = self._next_slots(shape.num_kv_heads)
        self._mask_slots = self._next_slots(shape.num_heads)
        self._positions = paddle.to_tensor(self.lengths)
        self._zeros = paddle.zeros([count * shape.num_heads])
        self._one = paddle.ones([], "int64")

    def _mask_of(self, window: int | None) -> paddle.Tensor:
        """Return [B * heads * C], 0 at the positions that a row's newest token sees."""
        position = np.arange(self._capacity)[None, :]
        seen = position < self.lengths[:, None]
        if window is not None:
            seen &= position >= self.lengths[:, None] - window
        mask = np.where(seen, np.float32(0), np.float32(_MASKED))
        return paddle.to_tensor(np.repeat(mask, self._shape.num_heads, axis=0).reshape(-1))

    def _next_slots(self, heads: int) -> paddle.Tensor:
        first = np.arange(len(self.lengths) * heads) * self._capacity
        return paddle.to_tensor(first + np.repeat(self.lengths, heads))
