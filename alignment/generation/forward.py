"""The decoder as generation needs it: whole prompts once, then one token of every row at a time.

B rows, M prompt tokens of several rows one after the other, D numbers a head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from alignment.generation.decoder_weights import DecoderWeights, LayerWeights
from alignment.generation.kv_cache import CacheShape, KVCache
from alignment.ops.attention import causal_attention
from alignment.ops.head_layout import HeadLayout
from alignment.ops.precision import widen
from alignment.ops.rms_norm import rms_norm_inference
from alignment.ops.rotary import RotaryTables, apply_rotary
from alignment.ops.rotary_frequencies import inverse_frequencies

_PROMPT_TOKENS = 512
"""Prompts are computed in groups of about so many tokens, which bounds memory and keeps a group in the cache."""


class DecoderForward:
    """Runs ``weights`` under ``config`` (a DecoderConfig) for sequences of at most ``max_length`` tokens."""

    def __init__(self, config: Any, weights: DecoderWeights, *, max_length: int) -> None:
        self._eps = config.rms_norm_eps
        self._weights = weights
        dim = config.head_dim
        heads, kv_heads = (x.weight.shape[1] // dim for x in weights.layers[0][1:3])
        dtype = weights.embedding.dtype
        self.cache_shape = CacheShape(len(weights.layers), heads, kv_heads, dim, config.sliding_window, dtype)
        frequencies, scale = inverse_frequencies(
            dim, config.rope_theta, config.rope_scaling, max_positions=config.max_position_embeddings
        )
        self._rotary = _PositionTables(frequencies, scale, self.cache_shape, max_length=max_length)

    def read_prompts(self, prompts: list[np.ndarray], cache: KVCache) -> np.ndarray:
        """Fill ``cache`` with ``prompts`` and return the logits [B, V] after the last token of each."""
        groups = [self._read_group(prompts, rows, cache) for rows in _group_rows([len(p) for p in prompts])]
        return np.concatenate(groups)

    def _read_group(self, prompts: list[np.ndarray], rows: range, cache: KVCache) -> np.ndarray:
        shape, lengths = self.cache_shape, cache.lengths[rows.start : rows.stop]
        layout = HeadLayout.build(
            lengths, num_heads=shape.num_heads, num_kv_heads=shape.num_kv_heads, dtype="float32", window=shape.window
        )
        positions = paddle.to_tensor(np.concatenate([np.arange(length) for length in lengths]))
        tables, slots = self._rotary.at(positions), cache.prompt_slots(rows)
        hidden = F.embedding(paddle.to_tensor(np.concatenate([prompts[row] for row in rows])), self._weights.embedding)
        root = float(shape.head_dim) ** 0.5
        for index, layer in enumerate(self._weights.layers):
            q, k, v = self._project(layer, hidden, tables)
            cache.write_prompts(index, k, v, slots)
            # The tables scale queries by D^-1/2 for the decode step; causal_attention does so itself.
            mixed = causal_attention(q.scale_(root), k, v, layout)
            hidden = self._feed(layer, hidden.add_(layer.output(mixed)))
        return self._logits(paddle.gather(hidden, paddle.to_tensor(np.cumsum(lengths) - 1)))

    def step(self, tokens: np.ndarray, cache: KVCache) -> np.ndarray:
        """Append ``tokens`` [B] to the rows of ``cache`` and return the logits [B, V] after them."""
        shape = self.cache_shape
        cache.open_step()
        hidden = F.embedding(paddle.to_tensor(tokens), self._weights.embedding)
        tables, mask = self._rotary.at(cache.positions), cache.mask
        grouped, flat = [-1, mask.shape[1], shape.head_dim], [-1, shape.num_heads * shape.head_dim]
        for index, layer in enumerate(self._weights.layers):
            q, k, v = self._project(layer, hidden, tables)
            cache.append(index, k, v)
            keys, values = cache.read(index)
            scores = widen(paddle.matmul(q.reshape(grouped), keys, transpose_y=True)).add_(mask)
            mixed = paddle.matmul(F.softmax(scores).astype(values.dtype), values).reshape(flat)
            hidden = self._feed(layer, hidden.add_(layer.output(mixed)))
        cache.close_step()
        return self._logits(hidden)

    def _project(self, layer: LayerWeights, hidden: paddle.Tensor, tables) -> tuple[paddle.Tensor, ...]:
        """Return rotated queries (scaled by D^-1/2), rotated keys and values of hidden [M, H]."""
        x = rms_norm_inference(hidden, layer.input_norm, self._eps)
        q = self._norm_heads(layer.queries(x), layer.query_norm)
        k = self._norm_heads(layer.keys(x), layer.key_norm)
        return apply_rotary(q, tables[0]), apply_rotary(k, tables[1]), layer.values(x)

    def _norm_heads(self, x: paddle.Tensor, weight: paddle.Tensor | None) -> paddle.Tensor:
        if weight is None:
            return x
        return rms_norm_inference(x.reshape([-1, self.cache_shape.head_dim]), weight, self._eps).reshape(x.shape)

    def _feed(self, layer: LayerWeights, hidden: paddle.Tensor) -> paddle.Tensor:
        x = rms_norm_inference(hidden, layer.feed_norm, self._eps)
        return hidden.add_(layer.down(F.silu(layer.gate(x)).multiply_(layer.up(x))))

    def _logits(self, hidden: paddle.Tensor) -> np.ndarray:
        x = rms_norm_inference(hidden, self._weights.norm, self._eps)
        return paddle.matmul(x, self._weights.head).astype("float32").numpy()


class _PositionTables:
    """Rotary factors of every position up to a length, by head width; rows are picked by position on the device."""

    def __init__(self, frequencies: np.ndarray, scale: float, shape: CacheShape, *, max_length: int) -> None:
        one = RotaryTables.build(np.arange(max_length), frequencies, heads=1, scale=scale, dtype="float32")
        root = float(shape.head_dim) ** -0.5
        self._dtype = shape.dtype
        self._sides = ((shape.num_heads, one.cos * root, one.sin * root), (shape.num_kv_heads, one.cos, one.sin))

    def at(self, positions: paddle.Tensor) -> tuple[RotaryTables, RotaryTables]:
        """Return the tables of queries (times D^-1/2) and of keys for ``positions`` [M]."""
        return tuple(self._pick(positions, *side) for side in self._sides)

    def _pick(self, positions: paddle.Tensor, heads: int, cos: paddle.Tensor, sin: paddle.Tensor) -> RotaryTables:
        cos, sin = (paddle.tile(paddle.gather(x, positions), [1, heads]).astype(self._dtype) for x in (cos, sin))
        return RotaryTables(cos, sin, paddle.to_tensor(np.arange(positions.shape[0] * heads * 2) ^ 1))


def _group_rows(lengths: list[int]) -> list[range]:
    """Return consecutive ranges of rows with about ``_PROMPT_TOKENS`` tokens, at least one row each."""
    groups, first, tokens = [], 0, 0
    for row, length in enumerate(lengths):
        if row > first and tokens + length > _PROMPT_TOKENS:
            groups.append(range(first, row))
            first, tokens = row, 0
        tokens += length
    return [*groups, range(first, len(lengths))]
