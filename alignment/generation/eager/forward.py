"""The decoder's forward pass for generation: prefill of whole prompts, then one token per row at a time.

B rows; M tokens in one pass (concatenated prompts, or one token per row); head size D; vocabulary size V (its local
part under tensor parallelism).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import paddle
import paddle.nn.functional as F

from alignment.architecture.parts import even_cut
from alignment.generation.eager.decoder_weights import Affine, DecoderWeights, LayerWeights, NormFactors
from alignment.generation.eager.experts import run_experts
from alignment.generation.eager.kv_cache import CacheShape, KVCache
from alignment.generation.eager.recorded_experts import ExpertsByRow, NoteLayer
from alignment.generation.eager.room import group_rows, prompt_tokens
from alignment.generation.engine_placement import WHOLE_MODEL, EnginePlacement
from alignment.ops import device_kernels
from alignment.ops.activations import ACTIVATIONS, gated
from alignment.ops.attention import causal_attention, decode_attention
from alignment.ops.embedding import scale_embedding
from alignment.ops.head_layout import HeadLayout
from alignment.ops.head_product import HeadProduct
from alignment.ops.precision import is_half, scale_by, widen
from alignment.ops.rms_norm import mean_square, scale_to
from alignment.ops.rotary import PositionTables, RotaryTables, apply_rotary
from alignment.parallel.tensor.regions import embed_rows

_Tables = tuple[RotaryTables, RotaryTables]


class _Turn(NamedTuple):
    """The rotary tables of queries (times the folded scale of the cache's shape) and of keys."""

    plain: _Tables
    local: _Tables
    """Those of layers with a window."""


class Tokens(Protocol):
    """M tokens passing through the layers of this process."""

    ids: np.ndarray
    """[M]"""
    positions: paddle.Tensor
    """[M] int64"""
    tables: _Turn
    note: NoteLayer | None
    """Is told which experts each layer gives the tokens to."""

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
    """Runs ``weights`` with ``config`` (a DecoderConfig) and the tables ``rotary`` of its frequencies.

    ``local_rotary`` are those of layers with a window; None: the same.
    """

    def __init__(
        self,
        config: Any,
        weights: DecoderWeights,
        rotary: PositionTables,
        placement: EnginePlacement = WHOLE_MODEL,
        *,
        local_rotary: PositionTables | None = None,
    ) -> None:
        self._eps, self._experts = config.rms_norm_eps, config.experts
        self._activation = config.activation
        self._is_parallel, self._shares_norm = config.parallel_block, config.shared_norm
        self._norms_all_heads, self._norms_sums = config.family.norms_all_heads, config.norms_sums
        self._embedding_scale, self._angle_limit = config.embedding_scale, config.angle_limit
        self._position_offset = config.family.position_offset
        self._weights = weights
        self._placement = placement
        chunks = placement.chunks(config.num_hidden_layers)
        self._chunks = _local_numbers(chunks)
        self._numbers = [number for chunk in chunks for number in chunk]
        self._is_local = [config.is_local(number) for chunk in chunks for number in chunk]
        self._query_scale, self._cap, self._logit_cap = config.query_scale, config.attention_cap, config.logit_cap
        self._first_id = even_cut(config.vocab_size, placement.tensor.size, placement.tensor.index)[0]
        dim = config.head_dim
        heads, kv_heads = (x.weight.shape[1] // dim for x in weights.layers[0][1:3])
        dtype = weights.any_matrix.dtype
        full = frozenset(n for n, is_local in enumerate(self._is_local) if not is_local)
        self.cache_shape = CacheShape(len(weights.layers), heads, kv_heads, dim, config.sliding_window, dtype, full)
        self._rotary, self._local_rotary = rotary, local_rotary
        matrix = weights.any_matrix
        self._prompt_tokens = prompt_tokens(on_device=is_half(matrix) and device_kernels.on_device(matrix))

    def prompt_groups(self, lengths: Sequence[int]) -> list[range]:
        """Return ranges of rows whose prompts, with ``lengths`` [B], are computed together."""
        return group_rows(lengths, self._prompt_tokens)

    def prompt_tokens(
        self, prompts: list[np.ndarray], rows: range, cache: KVCache, record: ExpertsByRow | None = None
    ) -> Tokens:
        """Return the tokens of ``prompts[rows]``, which fill those rows of ``cache``."""
        lengths = cache.lengths[rows.start : rows.stop]
        positions = np.concatenate([np.arange(length) for length in lengths])
        there = paddle.to_tensor(positions)
        tables = self._tables(there, lengths, np.repeat(lengths, lengths))
        found = _PromptTokens(prompts, rows, cache, self.cache_shape, tables, self._cap)
        found.positions = there
        found.note = record and record.at(np.repeat(np.asarray(rows), lengths), positions)
        return found

    def next_tokens(self, tokens: np.ndarray, cache: KVCache, note: NoteLayer | None = None) -> Tokens:
        """Open a step of ``cache`` and return ``tokens`` [B], to be appended to its rows."""
        cache.open_step()
        tables = self._tables(cache.positions, cache.lengths + 1, cache.lengths)
        found = _NextTokens(tokens, cache, self.cache_shape, tables, self._cap)
        found.positions, found.note = cache.positions, note
        return found

    def _tables(self, positions: paddle.Tensor, lengths: np.ndarray, of_tokens: np.ndarray) -> _Turn:
        """Return the tables at ``positions`` [M] in rows of ``lengths`` [B]; ``of_tokens`` [M]: of each token's row."""
        is_long = None if self._angle_limit is None else of_tokens > self._angle_limit
        shape = self.cache_shape
        sides = (shape.num_heads, shape.folded_scale), (shape.num_kv_heads, 1.0)

        def of(rotary: PositionTables) -> _Tables:
            options = {"longest": int(lengths.max()), "dtype": shape.dtype, "is_long": is_long}
            return tuple(rotary.at(positions, heads=heads, factor=factor, **options) for heads, factor in sides)

        plain = of(self._rotary)
        return _Turn(plain, plain if self._local_rotary is None else of(self._local_rotary))

    def run(self, tokens: Tokens, turn: int, hidden: paddle.Tensor | None) -> paddle.Tensor:
        """Run ``tokens`` through the layers of pass ``turn`` over this stage, from hidden [M, H] (None: embed them).

        Return [M, H], or float32 logits [B, V] after the model's last layer.
        """
        hidden = self._embed(tokens) if hidden is None else hidden
        for number in self._chunks[turn]:
            layer = self._weights.layers[number]
            tables = tokens.tables.local if self._is_local[number] else tokens.tables.plain
            mixed = tokens.mix(number, *self._project(layer, hidden, tables))
            note = tokens.note and partial(tokens.note, self._numbers[number])
            hidden = self._add(layer, hidden, self._gather_sum(layer.output, mixed), note)
        if turn < len(self._chunks) - 1:
            return hidden
        tokens.close()
        return self._logits(tokens.pick(hidden)) if self._placement.pipeline.is_last else hidden

    def _embed(self, tokens: Tokens) -> paddle.Tensor:
        """Return the embeddings [M, H], summed over the processes of a split vocabulary, with learned positions."""
        rows = self._look_up(paddle.to_tensor(tokens.ids))
        rows = rows if self._weights.project_in is None else paddle.matmul(rows, self._weights.project_in)
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
        x = hidden if self._norms_sums else self._norm(layer.input_norm, hidden)
        q = scale_by(self._norm_heads(layer.queries(x), layer.query_norm), self._query_scale)
        k = self._norm_heads(layer.keys(x), layer.key_norm)
        return apply_rotary(q, tables[0]), apply_rotary(k, tables[1]), layer.values(x)

    def _norm_heads(self, x: paddle.Tensor, norm: NormFactors | None) -> paddle.Tensor:
        if norm is None:
            return x
        if self._norms_all_heads:
            return self._norm_all_heads(x, norm)
        return norm(x.reshape([-1, self.cache_shape.head_dim]), self._eps).reshape(x.shape)

    def _norm_all_heads(self, x: paddle.Tensor, norm: NormFactors) -> paddle.Tensor:
        """Normalise x [M, heads * D] by the root mean square over the heads of all processes."""
        tensor = self._placement.tensor
        if tensor.size == 1:
            return norm(x, self._eps)
        # Each has equally many, copied heads included, so the mean of the means is that of all heads.
        mean = tensor.sum_(mean_square(x) / tensor.size, "norms of heads")
        return scale_to(x, mean, norm.weight, self._eps)

    def _add(self, layer: LayerWeights, hidden: paddle.Tensor, attended: paddle.Tensor, note) -> paddle.Tensor:
        """Return hidden [M, H] plus what attention gave and what feed-forward gives."""
        attended = self._norm(layer.attended_norm, attended)
        if self._is_parallel:
            return hidden.add(attended).add_(self._feed(layer, hidden, note))
        hidden = hidden.add_(attended)
        del attended  # not kept beside the feed-forward layer
        hidden = self._norm(layer.input_norm, hidden) if self._norms_sums else hidden
        hidden = hidden.add_(self._feed(layer, hidden, note))
        return self._norm(layer.feed_norm, hidden) if self._norms_sums else hidden

    def _norm(self, norm: NormFactors | None, x: paddle.Tensor) -> paddle.Tensor:
        return x if norm is None else norm(x, self._eps)

    def _feed(self, layer: LayerWeights, hidden: paddle.Tensor, note) -> paddle.Tensor:
        norm = layer.input_norm if self._shares_norm else layer.feed_norm
        x = hidden if self._norms_sums else self._norm(norm, hidden)
        if layer.routed is not None:
            return self._placement.tensor.sum_(run_experts(layer.routed, x, self._experts, note=note), "projections")
        if layer.gate is None:
            inner = ACTIVATIONS[self._activation](layer.up(x))
        elif device_kernels.on_device(x):
            inner = gated(self._activation, layer.gate(x), layer.up(x))
        else:
            inner = ACTIVATIONS[self._activation](layer.gate(x)).multiply_(layer.up(x))
        return self._norm(layer.fed_norm, self._gather_sum(layer.down, inner))

    def _gather_sum(self, affine: Affine, x: paddle.Tensor) -> paddle.Tensor:
        """Return ``affine`` of x [M, in], whose columns may be split over the tensor group; the bias is added once."""
        y = self._placement.tensor.sum_(paddle.matmul(x, affine.weight), "projections")
        return y if affine.bias is None else y.add_(affine.bias)

    def _logits(self, hidden: paddle.Tensor) -> paddle.Tensor:
        x = self._norm(self._weights.norm, hidden)
        x = x if self._weights.project_out is None else paddle.matmul(x, self._weights.project_out)
        bias = self._weights.head_bias
        logits = HeadProduct(self._weights.head, cap=self._logit_cap).logits(x)
        return logits if bias is None else logits.add_(widen(bias))


class _PromptTokens:
    """All tokens of some prompts; see ``Tokens``."""

    def __init__(
        self,
        prompts: list[np.ndarray],
        rows: range,
        cache: KVCache,
        shape: CacheShape,
        tables: _Turn,
        cap: float,
    ) -> None:
        lengths = cache.lengths[rows.start : rows.stop]
        self.ids = np.concatenate([prompts[row] for row in rows])
        self.tables = tables
        heads = {"num_heads": shape.num_heads, "num_kv_heads": shape.num_kv_heads, "dtype": "float32", "cap": cap}
        windows = dict.fromkeys(map(shape.window_of, range(shape.num_layers)))
        self._layouts = {window: HeadLayout.build(lengths, window=window, **heads) for window in windows}
        self._window_of = shape.window_of
        self._cache, self._slots = cache, cache.prompt_slots(rows)
        self._ends = paddle.to_tensor(np.cumsum(lengths) - 1)
        self._unfolding = shape.unfolding

    def mix(self, layer: int, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        self._cache.write_prompts(layer, k, v, self._slots)
        # The tables may scale queries by D^-1/2 for decoding; causal_attention scales by itself.
        q = q if self._unfolding == 1.0 else q.scale_(self._unfolding)
        return causal_attention(q, k, v, self._layouts[self._window_of(layer)])

    def close(self) -> None:
        return

    def pick(self, hidden: paddle.Tensor) -> paddle.Tensor:
        return paddle.gather(hidden, self._ends)


class _NextTokens:
    """One token of every row; see ``Tokens``."""

    def __init__(self, tokens: np.ndarray, cache: KVCache, shape: CacheShape, tables: _Turn, cap: float) -> None:
        self.ids, self._cache = tokens, cache
        self.tables, self._scale, self._cap = tables, shape.step_scale, cap
        self._grouped = [-1, shape.num_heads // shape.num_kv_heads, shape.head_dim]
        self._flat = [-1, shape.num_heads * shape.head_dim]

    def mix(self, layer: int, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        self._cache.append(layer, k, v)
        keys, values = self._cache.read(layer)
        mask = self._cache.mask(layer)
        mixed = decode_attention(q.reshape(self._grouped), keys, values, mask, self._scale, cap=self._cap)
        return mixed.reshape(self._flat)

    def close(self) -> None:
        self._cache.close_step()

    def pick(self, hidden: paddle.Tensor) -> paddle.Tensor:
        return hidden


def _local_numbers(chunks: Sequence[range]) -> list[range]:
    """Return ``chunks`` with layers renumbered within this process."""
    starts = np.cumsum([0, *map(len, chunks)]).tolist()
    return [range(start, stop) for start, stop in itertools.pairwise(starts)]
