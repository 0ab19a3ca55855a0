"""The decoder's forward pass for generation: prefill of whole prompts, then one token per row at a time.

B rows; M tokens in one pass (concatenated prompts, or one token per row); head size D; vocabulary size V (its local
part under tensor parallelism).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import paddle
import paddle.nn.functional as F

from alignment.architecture.parts import even_cut
from alignment.generation.eager.decoder_weights import Affine, DecoderWeights, LayerWeights
from alignment.generation.eager.experts import run_experts
from alignment.generation.eager.kv_cache import CacheShape, KVCache
from alignment.generation.eager.room import prompt_tokens
from alignment.generation.engine_placement import WHOLE_MODEL, EnginePlacement
from alignment.ops import device_kernels
from alignment.ops.attention import causal_attention, decode_attention
from alignment.ops.head_layout import HeadLayout
from alignment.ops.head_product import HeadProduct
from alignment.ops.precision import is_half
from alignment.ops.rms_norm import rms_norm_inference
from alignment.ops.rotary import PositionTables, RotaryTables, apply_rotary
from alignment.ops.swiglu import swiglu
from alignment.parallel.tensor.regions import embed_rows

_Tables = tuple[RotaryTables, RotaryTables]


class Tokens(Protocol):
    """M tokens passing through the layers of this process."""

    ids: np.ndarray
    """[M]"""
    tables: _Tables
    """The rotary tables of queries (times the folded scale of the cache's shape) and of keys."""

    def mix(self, layer: int, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        """Append keys and values to the cache of ``layer`` and return attention's output [M, heads * D]."""
        ...

    def close(self) -> None:
        """Finish the pass, after all layers of this process."""
        ...

    def pick(self, hidden: paddle.Tensor) -> paddle.Tensor:
        """Return the rows [B, H] of hidden [M, H] whose logits are needed."""
        ...


class DecoderForward:
    """Runs ``weights`` with ``config`` (a DecoderConfig) and the tables ``rotary`` of its frequencies."""

    def __init__(
        self, config: Any, weights: DecoderWeights, rotary: PositionTables, placement: EnginePlacement = WHOLE_MODEL
    ) -> None:
        self._eps, self._experts = config.rms_norm_eps, config.experts
        self._weights = weights
        self._placement = placement
        self._chunks = _local_numbers(placement.chunks(config.num_hidden_layers))
        self._first_id = even_cut(config.vocab_size, placement.tensor.size, placement.tensor.index)[0]
        dim = config.head_dim
        heads, kv_heads = (x.weight.shape[1] // dim for x in weights.layers[0][1:3])
        dtype = weights.layers[0].input_norm.dtype
        self.cache_shape = CacheShape(len(weights.layers), heads, kv_heads, dim, config.sliding_window, dtype)
        self._rotary = rotary
        norm = weights.layers[0].input_norm
        self._prompt_tokens = prompt_tokens(on_device=is_half(norm) and device_kernels.on_device(norm))

    def prompt_groups(self, lengths: Sequence[int]) -> list[range]:
        """Return ranges of rows whose prompts, with ``lengths`` [B], are computed together."""
        return group_rows(lengths, self._prompt_tokens)

    def prompt_tokens(self, prompts: list[np.ndarray], rows: range, cache: KVCache) -> Tokens:
        """Return the tokens of ``prompts[rows]``, which fill those rows of ``cache``."""
        lengths = cache.lengths[rows.start : rows.stop]
        positions = np.concatenate([np.arange(length) for length in lengths])
        tables = self._tables(paddle.to_tensor(positions), longest=int(lengths.max()))
        return _PromptTokens(prompts, rows, cache, self.cache_shape, tables)

    def next_tokens(self, tokens: np.ndarray, cache: KVCache) -> Tokens:
        """Open a step of ``cache`` and return ``tokens`` [B], to be appended to its rows."""
        cache.open_step()
        tables = self._tables(cache.positions, longest=int(cache.lengths.max()) + 1)
        return _NextTokens(tokens, cache, self.cache_shape, tables)

    def _tables(self, positions: paddle.Tensor, *, longest: int) -> _Tables:
        """Return the tables for queries (times the folded scale) and keys at ``positions`` [M]."""
        shape = self.cache_shape
        sides = (shape.num_heads, shape.folded_scale), (shape.num_kv_heads, 1.0)
        return tuple(
            self._rotary.at(positions, heads=heads, longest=longest, dtype=shape.dtype, factor=factor)
            for heads, factor in sides
        )

    def run(self, tokens: Tokens, turn: int, hidden: paddle.Tensor | None) -> paddle.Tensor:
        """Run ``tokens`` through the layers of pass ``turn`` over this stage, from hidden [M, H] (None: embed them).

        Return [M, H], or float32 logits [B, V] after the model's last layer.
        """
        hidden = self._embed(tokens.ids) if hidden is None else hidden
        for number in self._chunks[turn]:
            layer = self._weights.layers[number]
            mixed = tokens.mix(number, *self._project(layer, hidden, tokens.tables))
            hidden = self._feed(layer, hidden.add_(self._gather_sum(layer.output, mixed)))
        if turn < len(self._chunks) - 1:
            return hidden
        tokens.close()
        return self._logits(tokens.pick(hidden)) if self._placement.pipeline.is_last else hidden

    def _embed(self, ids: np.ndarray) -> paddle.Tensor:
        """Return the embeddings [M, H], summed over the processes of a split vocabulary."""
        table, tensor = self._weights.embedding, self._placement.tensor
        if tensor.size == 1:
            return F.embedding(paddle.to_tensor(ids), table)
        return tensor.sum_(embed_rows(paddle.to_tensor(ids), table, first_row=self._first_id), "embedding")

    def _project(self, layer: LayerWeights, hidden: paddle.Tensor, tables) -> tuple[paddle.Tensor, ...]:
        """Return rotated queries (times the folded scale), rotated keys and values of hidden [M, H]."""
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
        if layer.routed is not None:
            mixed = run_experts(layer.routed, x, self._experts)
            return hidden.add_(self._placement.tensor.sum_(mixed, "projections"))
        if device_kernels.on_device(x):
            inner = swiglu(layer.gate(x), layer.up(x))
        else:
            inner = F.silu(layer.gate(x)).multiply_(layer.up(x))
        return hidden.add_(self._gather_sum(layer.down, inner))

    def _gather_sum(self, affine: Affine, x: paddle.Tensor) -> paddle.Tensor:
        """Return ``affine`` of x [M, in], whose columns may be split over the tensor group; the bias is added once."""
        y = self._placement.tensor.sum_(paddle.matmul(x, affine.weight), "projections")
        return y if affine.bias is None else y.add_(affine.bias)

    def _logits(self, hidden: paddle.Tensor) -> paddle.Tensor:
        x = rms_norm_inference(hidden, self._weights.norm, self._eps)
        return HeadProduct(self._weights.head).logits(x)


class _PromptTokens:
    """All tokens of some prompts; see ``Tokens``."""

    def __init__(
        self,
        prompts: list[np.ndarray],
        rows: range,
        cache: KVCache,
        shape: CacheShape,
        tables: tuple[RotaryTables, RotaryTables],
    ) -> None:
        lengths = cache.lengths[rows.start : rows.stop]
        self.ids = np.concatenate([prompts[row] for row in rows])
        self.tables = tables
        self._layout = HeadLayout.build(
            lengths, num_heads=shape.num_heads, num_kv_heads=shape.num_kv_heads, dtype="float32", window=shape.window
        )
        self._cache, self._slots = cache, cache.prompt_slots(rows)
        self._ends = paddle.to_tensor(np.cumsum(lengths) - 1)
        self._unfolding = shape.unfolding

    def mix(self, layer: int, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        self._cache.write_prompts(layer, k, v, self._slots)
        # The tables may scale queries by D^-1/2 for decoding; causal_attention scales by itself.
        return causal_attention(q if self._unfolding == 1.0 else q.scale_(self._unfolding), k, v, self._layout)

    def close(self) -> None:
        return

    def pick(self, hidden: paddle.Tensor) -> paddle.Tensor:
        return paddle.gather(hidden, self._ends)


class _NextTokens:
    """One token of every row; see ``Tokens``."""

    def __init__(self, tokens: np.ndarray, cache: KVCache, shape: CacheShape, tables: _Tables) -> None:
        self.ids, self._cache = tokens, cache
        self.tables, self._mask, self._scale = tables, cache.mask, shape.step_scale
        self._grouped = [-1, self._mask.shape[1], shape.head_dim]
        self._flat = [-1, shape.num_heads * shape.head_dim]

    def mix(self, layer: int, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        self._cache.append(layer, k, v)
        keys, values = self._cache.read(layer)
        mixed = decode_attention(q.reshape(self._grouped), keys, values, self._mask, self._scale)
        return mixed.reshape(self._flat)

    def close(self) -> None:
        self._cache.close_step()

    def pick(self, hidden: paddle.Tensor) -> paddle.Tensor:
        return hidden


def group_rows(lengths: Sequence[int], limit: int) -> list[range]:
    """Return consecutive ranges of rows with about ``limit`` tokens and at least one row each."""
    groups, first, tokens = [], 0, 0
    for row, length in enumerate(lengths):
        if row > first and tokens + length > limit:
            groups.append(range(first, row))
            first, tokens = row, 0
        tokens += length
    return [*groups, range(first, len(lengths))]


def _local_numbers(chunks: Sequence[range]) -> list[range]:
    """Return ``chunks`` with layers renumbered within this process."""
    starts = np.cumsum([0, *map(len, chunks)]).tolist()
    return [range(start, stop) for start, stop in itertools.pairwise(starts)]
