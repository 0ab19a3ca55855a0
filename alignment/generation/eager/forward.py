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
from alignment.generation.eager.decoder_weights import Affine, DecoderWeights, LayerWeights, NormFactors
from alignment.generation.eager.experts import run_experts
from alignment.generation.eager.kv_cache import CacheShape, KVCache
from alignment.generation.eager.room import prompt_tokens
from alignment.generation.engine_placement import WHOLE_MODEL, EnginePlacement
from alignment.ops import device_kernels
from alignment.ops.activations import ACTIVATIONS, gated
from alignment.ops.attention import causal_attention, decode_attention
from alignment.ops.embedding import scale_embedding
from alignment.ops.head_layout import HeadLayout
from alignment.ops.head_product import HeadProduct
from alignment.ops.precision import is_half
from alignment.ops.rotary import PositionTables, RotaryTables, apply_rotary
from alignment.parallel.tensor.regions import embed_rows

_Tables = tuple[RotaryTables, RotaryTables]


class Tokens(Protocol):
    """M tokens passing through the layers of this process."""

    ids: np.ndarray
    """[M]"""
    positions: paddle.Tensor
    """[M] int64"""
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
        self._activation = config.activation
        self._is_parallel, self._shares_norm = config.parallel_block, config.shared_norm
        self._embedding_scale = config.embedding_scale
        self._position_offset = config.family.position_offset
        self._weights = weights
        self._placement = placement
        self._chunks = _local_numbers(placement.chunks(config.num_hidden_layers))
        self._first_id = even_cut(config.vocab_size, placement.tensor.size, placement.tensor.index)[0]
        dim = config.head_dim
        heads, kv_heads = (x.weight.shape[1] // dim for x in weights.layers[0][1:3])
        dtype = weights.any_matrix.dtype
        self.cache_shape = CacheShape(len(weights.layers), heads, kv_heads, dim, config.sliding_window, dtype)
        self._rotary = rotary
        matrix = weights.any_matrix
        self._prompt_tokens = prompt_tokens(on_device=is_half(matrix) and device_kernels.on_device(matrix))

    def prompt_groups(self, lengths: Sequence[int]) -> list[range]:
        """Return ranges of rows whose prompts, with ``lengths`` [B], are computed together."""
        return group_rows(lengths, self._prompt_tokens)

    def prompt_tokens(self, prompts: list[np.ndarray], rows: range, cache: KVCache) -> Tokens:
        """Return the tokens of ``prompts[rows]``, which fill those rows of ``cache``."""
        lengths = cache.lengths[rows.start : rows.stop]
        positions = np.concatenate([np.arange(length) for length in lengths])
        there = paddle.to_tensor(positions)
        tables = self._tables(there, longest=int(lengths.max()))
        found = _PromptTokens(prompts, rows, cache, self.cache_shape, tables)
        found.positions = there
        return found

    def next_tokens(self, tokens: np.ndarray, cache: KVCache) -> Tokens:
        """Open a step of ``cache`` and return ``tokens`` [B], to be appended to its rows."""
        cache.open_step()
        tables = self._tables(cache.positions, longest=int(cache.lengths.max()) + 1)
        found = _NextTokens(tokens, cache, self.cache_shape, tables)
        found.positions = cache.positions
        return found

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
        hidden = self._embed(tokens) if hidden is None else hidden
        for number in self._chunks[turn]:
            layer = self._weights.layers[number]
            mixed = tokens.mix(number, *self._project(layer, hidden, tokens.tables))
            hidden = self._add(layer, hidden, self._gather_sum(layer.output, mixed))
        if turn < len(self._chunks) - 1:
            return hidden
        tokens.close()
        return self._logits(tokens.pick(hidden)) if self._placement.pipeline.is_last else hidden

    def _embed(self, tokens: Tokens) -> paddle.Tensor:
        """Return the embeddings [M, H], summed over the processes of a split vocabulary, with learned positions."""
        rows = self._look_up(paddle.to_tensor(tokens.ids))
        table = self._weights.positions
        return rows if table is None else rows.add_(F.embedding(tokens.positions + self._position_offset, table))

    def _look_up(self, ids: paddle.Tensor) -> paddle.Tensor:
        table, tensor = self._weights.embedding, self._placement.tensor
        if tensor.size == 1:
            return scale_embedding(F.embedding(ids, table), self._embedding_scale)
        rows = embed_rows(ids, table, first_row=self._first_id)
        return tensor.sum_(scale_embedding(rows, self._embedding_scale), "embedding")

    def _project(self, layer: LayerWeights, hidden: paddle.Tensor, tables) -> tuple[paddle.Tensor, ...]:
        """Return rotated queries (times the folded scale), rotated keys and values of hidden [M, H]."""
        x = hidden if layer.input_norm is None else layer.input_norm(hidden, self._eps)
        q = self._norm_heads(layer.queries(x), layer.query_norm)
        k = self._norm_heads(layer.keys(x), layer.key_norm)
        return apply_rotary(q, tables[0]), apply_rotary(k, tables[1]), layer.values(x)

    def _norm_heads(self, x: paddle.Tensor, norm: NormFactors | None) -> paddle.Tensor:
        return x if norm is None else norm(x.reshape([-1, self.cache_shape.head_dim]), self._eps).reshape(x.shape)

    def _add(self, layer: LayerWeights, hidden: paddle.Tensor, attended: paddle.Tensor) -> paddle.Tensor:
        """Return hidden [M, H] plus what attention gave and what feed-forward gives."""
        attended = attended if layer.attended_norm is None else layer.attended_norm(attended, self._eps)
        if self._is_parallel:
            return hidden.add(attended).add_(self._feed(layer, hidden))
        hidden = hidden.add_(attended)
        del attended  # not kept beside the feed-forward layer
        return hidden.add_(self._feed(layer, hidden))

    def _feed(self, layer: LayerWeights, hidden: paddle.Tensor) -> paddle.Tensor:
        norm = layer.input_norm if self._shares_norm else layer.feed_norm
        x = hidden if norm is None else norm(hidden, self._eps)
        if layer.routed is not None:
            return self._placement.tensor.sum_(run_experts(layer.routed, x, self._experts), "projections")
        if layer.gate is None:
            inner = ACTIVATIONS[self._activation](layer.up(x))
        elif device_kernels.on_device(x):
            inner = gated(self._activation, layer.gate(x), layer.up(x))
        else:
            inner = ACTIVATIONS[self._activation](layer.gate(x)).multiply_(layer.up(x))
        fed = self._gather_sum(layer.down, inner)
        return fed if layer.fed_norm is None else layer.fed_norm(fed, self._eps)

    def _gather_sum(self, affine: Affine, x: paddle.Tensor) -> paddle.Tensor:
        """Return ``affine`` of x [M, in], whose columns may be split over the tensor group; the bias is added once."""
        y = self._placement.tensor.sum_(paddle.matmul(x, affine.weight), "projections")
        return y if affine.bias is None else y.add_(affine.bias)

    def _logits(self, hidden: paddle.Tensor) -> paddle.Tensor:
        x = self._weights.norm(hidden, self._eps)
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
