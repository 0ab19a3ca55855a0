"""Rotary position embedding and causal attention as one operator, prepared once for all layers of a forward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import paddle

from alignment.ops.attention import causal_attention, ragged_attention
from alignment.ops.head_layout import HeadLayout
from alignment.ops.host_arrays import from_host
from alignment.ops.native.selection import runs_natively
from alignment.ops.native.training_ops import QueryRanges, RaggedHeads
from alignment.ops.rotary import PositionTables, RotaryTables, apply_rotary
from alignment.ops.shared_tokens import own_places, places_of


@dataclass(frozen=True, kw_only=True)
class RotaryAttention:
    """Attention over the M real tokens of n sequences; what layers share is computed at first use."""

    lengths: np.ndarray
    """[n] tokens of each sequence."""
    positions: np.ndarray
    """[M]"""
    rotation: PositionTables
    """Kept from one forward pass to the next."""
    num_heads: int
    num_kv_heads: int
    window: int | None
    """How many tokens a query sees, itself included; None: all before it."""
    cap: float = 0.0
    """Scores x become cap tanh(x / cap); 0: they stay."""
    dtype: Any
    """The dtype of queries, keys and values."""
    shared: np.ndarray | None = None
    """[n] leading tokens that each sequence shares with the one before (``ops.shared_tokens``); None: none."""

    is_long: np.ndarray | None = None
    """[M] True for tokens of rows that have the long rotation; None: nowhere."""

    def attend(
        self,
        q: paddle.Tensor,
        k: paddle.Tensor,
        v: paddle.Tensor,
        *,
        queries: QueryRanges | None = None,
        keep_weights: bool = True,
    ) -> paddle.Tensor:
        """Rotate q [Q, heads*D] and k [M, kv_heads*D] and return their causal attention to v, [Q, heads*D].

        ``queries``: the tokens of q; None: all, Q = M. ``keep_weights`` as in ``causal_attention``.
        """
        if runs_natively(q, k, v):
            heads = self._ragged if queries is None else replace(self._ragged, queries=queries)
            return ragged_attention(q, k, v, heads)
        rows = None
        if queries is not None:
            # Queries of zeros for the other tokens; nobody reads what they find.
            rows = from_host(queries.rows(self._ragged.origins))
            q = paddle.scatter_nd(rows.unsqueeze(-1), q, [k.shape[0], q.shape[1]])
        rotated = apply_rotary(q, self._query_tables), apply_rotary(k, self._key_tables)
        whole = (paddle.gather(x, self._whole) if self.shared is not None else x for x in (*rotated, v))
        out = causal_attention(*whole, self._layout, keep_weights=keep_weights)
        if self.shared is not None:
            out = paddle.gather(out, self._own)
        return out if rows is None else paddle.gather(out, rows)

    @cached_property
    def _ragged(self) -> RaggedHeads:
        rotation = self.rotation.rotations(self.positions, self.is_long)
        return RaggedHeads.build(self.lengths, rotation=rotation, shared=self.shared, **self._heads)

    @cached_property
    def _layout(self) -> HeadLayout:
        dtype = "float64" if self.dtype == paddle.float64 else "float32"
        return HeadLayout.build(self.lengths, dtype=dtype, **self._heads)

    @cached_property
    def _whole(self) -> paddle.Tensor:
        """The tokens of all sequences, shared ones once for each."""
        return paddle.to_tensor(np.concatenate(places_of(self.lengths, self.shared)))

    @cached_property
    def _own(self) -> paddle.Tensor:
        """The place of each token among ``_whole``."""
        return paddle.to_tensor(own_places(self.lengths, self.shared))

    @cached_property
    def _query_tables(self) -> RotaryTables:
        return self._tables(self.num_heads)

    @cached_property
    def _key_tables(self) -> RotaryTables:
        return self._tables(self.num_kv_heads)

    @property
    def _heads(self) -> dict[str, int | float | None]:
        sizes = {"num_heads": self.num_heads, "num_kv_heads": self.num_kv_heads}
        return {**sizes, "window": self.window, "cap": self.cap}

    @cached_property
    def _positions_there(self) -> paddle.Tensor:
        return from_host(self.positions)

    def _tables(self, heads: int) -> RotaryTables:
        longest = int(self.positions.max(initial=0)) + 1
        form = {"heads": heads, "longest": longest, "dtype": self.dtype, "is_long": self.is_long}
        return self.rotation.at(self._positions_there, **form)
