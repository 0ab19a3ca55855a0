"""Bytes that the operators of a layer keep and allocate: Paddle's, and the compiled ones for a CPU.

M tokens in n rows of S; W attention weights. Tensors of size M (scales of norms, positions) are neglected.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from alignment.architecture.cuts import layer_sizes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.parts import even_cut
from alignment.ops import pieces

FLOAT = 4
_INDEX = 8


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of the tensors between operators in one process, for a micro-batch of full rows."""

    config: DecoderConfig
    rows: int
    length: int
    tensor: int
    """Tensor-parallel degree."""
    sequence_parallel: bool
    item: int
    """Bytes of an activation."""
    saved: int = 0
    """Tokens that rows share with the ones before them, and that are not computed again."""

    @cached_property
    def tokens(self) -> int:
        """M; none is padding."""
        return self.rows * self.length - self.saved

    @cached_property
    def boundary(self) -> int:
        """Hidden states between layers; under sequence parallelism those of this process's share of the tokens."""
        tokens = -(-self.tokens // self.tensor) if self.sequence_parallel else self.tokens
        return tokens * self.config.hidden_size * self.item

    @cached_property
    def hidden(self) -> int:
        """Hidden states of all tokens, the input of attention and feed-forward."""
        return self.tokens * self.config.hidden_size * self.item

    @cached_property
    def norm_input(self) -> int:
        """The input that a norm keeps."""
        return self.boundary

    @cached_property
    def _layer(self):
        return layer_sizes(self.config, tensor_degree=self.tensor, tensor_index=0)

    @cached_property
    def heads(self) -> int:
        """Number of query heads in this process."""
        return self._layer.heads

    @cached_property
    def kv_heads(self) -> int:
        """Number of key heads in this process."""
        return self._layer.kv_heads

    @cached_property
    def queries(self) -> int:
        """Queries, or attention's output."""
        return self.tokens * self.heads * self.config.head_dim * self.item

    @cached_property
    def keys(self) -> int:
        """Keys or values."""
        return self.tokens * self.kv_heads * self.config.head_dim * self.item

    @cached_property
    def inner(self) -> int:
        """The feed-forward block's gate, up projection or their product; with experts those of all copies."""
        experts = self.config.experts
        if experts is None:
            return self.tokens * self._layer.inner * self.item
        widths = (even_cut(width, self.tensor, 0)[1] for width in (experts.inner, experts.shared_inner))
        routed = sum(width * times for width, times in zip(widths, (experts.top_k, 1), strict=True))
        return self.tokens * max(routed, self._layer.inner * bool(experts.dense_layers)) * self.item

    @cached_property
    def norms_around_feed_forward(self) -> int:
        """What norms keep besides the one before attention: input and output, and the inputs of norms after both.

        A parallel block was measured to keep as much as one in sequence.
        """
        return self.hidden + self.norm_input + 2 * self.norm_input * self.config.family.has_norms("after")

    def kept_by_activation(self, gated: int) -> int:
        """Return what an activation keeps: ``gated`` times ``inner``, or without a gate its input and output.

        ReLU's output is enough for its gradient.
        """
        plain = 1 if self.config.activation == "relu" else 2
        return (gated if self.config.family.is_gated else plain) * self.inner

    @cached_property
    def copies(self) -> int:
        """Hidden states of the copies of all tokens that experts get; 0 without experts."""
        return 0 if self.config.experts is None else self.hidden * self.config.experts.top_k

    @cached_property
    def rotations(self) -> int:
        """Cosines and sines for queries and keys, and the indices of half-heads."""
        return 2 * (self.queries + self.keys) + 2 * self.tokens * (self.heads + self.kv_heads) * _INDEX

    @cached_property
    def orders(self) -> int:
        """The indices of heads, and the mask."""
        heads = self.heads + (self.kv_heads if self.kv_heads != self.heads else 0)
        return 2 * self.tokens * heads * _INDEX + self.length**2 * FLOAT


class PaddleOperators:
    """The reference operators of ``ops``, which split heads and materialise W.

    Queries, keys, values, gate and up projection are counted here too.
    """

    def __init__(self, sizes: Sizes, *, keep_weights: bool) -> None:
        self._sizes = sizes
        self._keep_weights = keep_weights

    @property
    def shared(self) -> int:
        """Bytes shared by all layers of a pass."""
        return self._sizes.rotations + self.orders

    @property
    def orders(self) -> int:
        """The part of ``shared``, besides rotations, that attention gets in the eager engine."""
        return self._sizes.orders

    @cached_property
    def kept_attention(self) -> int:
        """Bytes attention keeps for its backward pass, with its output, which the next projection keeps.

        These are queries, keys, values and output by head, W, and the output by token.
        """
        return 2 * self._queries + 2 * self._keys + self._kept_weights + self._sizes.queries

    def kept_for(self, read: Sizes) -> int:
        """Return ``kept_attention`` where only the tokens of ``read`` are read: the output by token is theirs."""
        return self.kept_attention - self._sizes.queries + read.queries

    def back_for(self, read: Sizes) -> int:
        """Return ``attention_back`` where only the tokens of ``read`` are read.

        The output by token is theirs, but its gradient, which takes its place, is that of all.
        """
        return self.attention_back + self._sizes.queries - read.queries

    def attention_for(self, read: Sizes) -> int:
        """Return ``attention`` where only the tokens of ``read`` are read: their queries, before the others' zeros."""
        return self.attention + read.queries

    @cached_property
    def kept_activation(self) -> int:
        """Bytes the activation keeps for its backward pass: gate, up, what is made of the gate, and their product."""
        return self._sizes.kept_by_activation(gated=4)

    @cached_property
    def attention_back(self) -> int:
        """The peak of attention's backward pass on top of what is kept.

        These are gradients of the heads in both orders, W if it is recomputed, and its gradient.
        """
        grads = 3 * self._queries + 4 * self._keys
        if not self._in_pieces:
            return grads + 2 * self._weights - self._kept_weights
        early = 2 * self._queries + 2 * self._keys + 4 * self._piece
        return max(early, grads + self._queries + 2 * self._keys + 2 * self._piece)

    @cached_property
    def attention(self) -> int:
        """The peak of attention if nothing is kept: heads in both orders, and scores."""
        return 2 * self._queries + 4 * self._keys + (3 if self._in_pieces else 2) * self._piece

    @property
    def activation(self) -> int:
        """The peak of the gated activation if nothing is kept."""
        return self.kept_activation

    def scratch(self, threads: int) -> int:
        """Return the host memory, besides tensors, that the operators hold from their first use."""
        return 0

    @cached_property
    def _queries(self) -> int:
        """Queries in float32, in which attention is computed."""
        return self._sizes.queries // self._sizes.item * FLOAT

    @cached_property
    def _keys(self) -> int:
        return self._sizes.keys // self._sizes.item * FLOAT

    @cached_property
    def _weights(self) -> int:
        """W of all heads."""
        s = self._sizes
        return s.rows * s.heads * s.length**2 * FLOAT

    @cached_property
    def _piece(self) -> int:
        """W of the heads computed at once."""
        one = self._sizes.heads // self._sizes.kv_heads * self._sizes.length**2 * FLOAT
        return min(self._weights, pieces.heads_at_once(one) * one)

    @cached_property
    def _in_pieces(self) -> bool:
        return self._piece < self._weights

    @cached_property
    def _kept_weights(self) -> int:
        return self._weights if self._keep_weights and not self._in_pieces else 0


class NativeOperators:
    """The compiled float32 operators, which do not rearrange heads and hold scores in scratch memory.

    For its properties see ``PaddleOperators``.
    """

    shared, orders = 0, 0

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes

    @cached_property
    def kept_attention(self) -> int:
        """Queries, keys, values, the output, and two numbers per query and head."""
        s = self._sizes
        return 2 * s.queries + 2 * s.keys + 2 * s.tokens * s.heads * FLOAT

    def kept_for(self, read: Sizes) -> int:
        """See ``PaddleOperators``: only keys and values are those of all tokens."""
        return 2 * read.queries + 2 * self._sizes.keys + 2 * read.tokens * read.heads * FLOAT

    def back_for(self, read: Sizes) -> int:
        """See ``PaddleOperators``."""
        return 2 * read.queries + 2 * self._sizes.keys

    def attention_for(self, read: Sizes) -> int:
        """See ``PaddleOperators``."""
        return self.kept_for(read)

    @cached_property
    def kept_activation(self) -> int:
        """Gate, up and their product; other activations than SiLU are Paddle's, see ``PaddleOperators``."""
        return self._sizes.kept_by_activation(gated=3 if self._sizes.config.activation == "silu" else 4)

    @cached_property
    def attention_back(self) -> int:
        """Gradients of the output, queries, keys and values."""
        return 2 * self._sizes.queries + 2 * self._sizes.keys

    @property
    def attention(self) -> int:
        """What would be kept."""
        return self.kept_attention

    @property
    def activation(self) -> int:
        """What would be kept."""
        return self.kept_activation

    def scratch(self, threads: int) -> int:
        """Return, per thread, keys, values and gradients of one head of a row, and scores and their gradients."""
        s = self._sizes
        one = s.length * (5 * s.config.head_dim + 2 * pieces.QUERY_TILE) * FLOAT
        return min(threads, s.rows * s.kv_heads) * one


class FlashOperators(NativeOperators):
    """The half-precision operators of a GPU: flash attention, and one kernel each for activations and norms."""

    @property
    def shared(self) -> int:
        """Cosines and sines."""
        return self._sizes.rotations

    def scratch(self, threads: int) -> int:
        """Return 0: nothing on the host."""
        return 0
