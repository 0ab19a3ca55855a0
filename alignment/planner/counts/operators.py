"""Bytes of the tensors that the operators of a layer keep and make: Paddle's, and the compiled ones of a CPU.

M tokens of n rows of S; W attention weights. What grows with M alone (scales of norms, positions) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from alignment.architecture.cuts import layer_sizes
from alignment.architecture.decoder_config import DecoderConfig

SCORE_BYTES = 64 << 20
"""As ``ops.attention``, which needs Paddle: larger scores are made in pieces."""
QUERY_TILE = 48
"""As ``csrc/core/training_kernels.h``: queries whose scores compiled attention holds at once."""
FLOAT = 4
_INDEX = 8


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of the tensors between the operators of one process, in a micro-batch of full rows."""

    config: DecoderConfig
    rows: int
    length: int
    tensor: int
    """Tensor-parallel degree."""
    sequence_parallel: bool
    item: int
    """Bytes of an activation."""

    @cached_property
    def tokens(self) -> int:
        """M, all of them real."""
        return self.rows * self.length

    @cached_property
    def boundary(self) -> int:
        """Hidden states between two layers; under sequence parallelism this process's share of the tokens."""
        tokens = -(-self.tokens // self.tensor) if self.sequence_parallel else self.tokens
        return tokens * self.config.hidden_size * self.item

    @cached_property
    def hidden(self) -> int:
        """Hidden states of all tokens, as attention and feed-forward take them."""
        return self.tokens * self.config.hidden_size * self.item

    @cached_property
    def norm_input(self) -> int:
        """What a norm keeps: its input."""
        return self.boundary

    @cached_property
    def _layer(self):
        return layer_sizes(self.config, tensor_degree=self.tensor, tensor_index=0)

    @cached_property
    def heads(self) -> int:
        """Query heads of this process."""
        return self._layer.heads

    @cached_property
    def kv_heads(self) -> int:
        """Key heads of this process."""
        return self._layer.kv_heads

    @cached_property
    def queries(self) -> int:
        """Queries, or what attention makes of them."""
        return self.tokens * self.heads * self.config.head_dim * self.item

    @cached_property
    def keys(self) -> int:
        """Keys or values."""
        return self.tokens * self.kv_heads * self.config.head_dim * self.item

    @cached_property
    def inner(self) -> int:
        """The feed-forward block's gate, up projection or product."""
        return self.tokens * self._layer.inner * self.item

    @cached_property
    def rotations(self) -> int:
        """Cosines and sines of queries and keys, and the positions of half-heads."""
        return 2 * (self.queries + self.keys) + 2 * self.tokens * (self.heads + self.kv_heads) * _INDEX

    @cached_property
    def orders(self) -> int:
        """The positions of heads and the mask."""
        heads = self.heads + (self.kv_heads if self.kv_heads != self.heads else 0)
        return 2 * self.tokens * heads * _INDEX + self.length**2 * FLOAT


class Operators(Protocol):
    """What a set of operators needs; queries, keys, values, gate and up projection are counted here too."""

    @property
    def shared(self) -> int:
        """What all layers of a pass share."""
        ...

    @property
    def orders(self) -> int:
        """What attention is given of it in the eager engine, beside rotations."""
        ...

    @property
    def kept_attention(self) -> int:
        """What attention keeps for its backward pass, and its output, which the next projection keeps."""
        ...

    @property
    def kept_activation(self) -> int:
        """The same of the gated activation."""
        ...

    @property
    def attention_back(self) -> int:
        """What attention's way back needs on top of what is kept."""
        ...

    @property
    def attention(self) -> int:
        """What attention needs where nothing is kept."""
        ...

    @property
    def activation(self) -> int:
        """What the gated activation needs where nothing is kept."""
        ...

    def scratch(self, threads: int) -> int:
        """Return what the operators have of the host's memory, beside tensors, from their first use on."""
        ...


class PaddleOperators:
    """The references of ``ops``: heads are taken apart, and W is there."""

    def __init__(self, sizes: Sizes, *, keep_weights: bool) -> None:
        self._sizes = sizes
        self._keep_weights = keep_weights

    @property
    def shared(self) -> int:
        """See ``Operators``."""
        return self._sizes.rotations + self.orders

    @property
    def orders(self) -> int:
        """See ``Operators``."""
        return self._sizes.orders

    @cached_property
    def kept_attention(self) -> int:
        """See ``Operators``: queries, keys, values and the output head by head, W, the output token by token."""
        return 2 * self._queries + 2 * self._keys + self._kept_weights + self._sizes.queries

    @cached_property
    def kept_activation(self) -> int:
        """See ``Operators``: gate, up, the sigmoid and their product."""
        return 4 * self._sizes.inner

    @cached_property
    def attention_back(self) -> int:
        """See ``Operators``: gradients of the heads in both orders; W computed again where it is not kept, and its
        gradient.
        """
        grads = 3 * self._queries + 4 * self._keys
        if not self._in_pieces:
            return grads + 2 * self._weights - self._kept_weights
        early = 2 * self._queries + 2 * self._keys + 4 * self._piece
        return max(early, grads + self._queries + 2 * self._keys + 2 * self._piece)

    @cached_property
    def attention(self) -> int:
        """See ``Operators``: heads in both orders, and scores."""
        return 2 * self._queries + 4 * self._keys + (3 if self._in_pieces else 2) * self._piece

    @cached_property
    def activation(self) -> int:
        """See ``Operators``."""
        return 4 * self._sizes.inner

    def scratch(self, threads: int) -> int:
        """See ``Operators``."""
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
        """W of the heads that are computed together."""
        one = self._sizes.heads // self._sizes.kv_heads * self._sizes.length**2 * FLOAT
        return min(self._weights, max(1, SCORE_BYTES // one) * one)

    @cached_property
    def _in_pieces(self) -> bool:
        return self._piece < self._weights

    @cached_property
    def _kept_weights(self) -> int:
        return self._weights if self._keep_weights and not self._in_pieces else 0


class NativeOperators:
    """The compiled ones, in float32: heads stay where they are, and scores are in the kernels' working memory."""

    shared, orders = 0, 0
    """See ``Operators``."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes

    @cached_property
    def kept_attention(self) -> int:
        """See ``Operators``: queries, keys, values, the output, and two numbers for each query and head."""
        s = self._sizes
        return 2 * s.queries + 2 * s.keys + 2 * s.tokens * s.heads * FLOAT

    @cached_property
    def kept_activation(self) -> int:
        """See ``Operators``: gate, up and their product."""
        return 3 * self._sizes.inner

    @cached_property
    def attention_back(self) -> int:
        """See ``Operators``: gradients of the output, queries, keys and values."""
        return 2 * self._sizes.queries + 2 * self._sizes.keys

    @cached_property
    def attention(self) -> int:
        """See ``Operators``: what would be kept."""
        return self.kept_attention

    @cached_property
    def activation(self) -> int:
        """See ``Operators``: what would be kept."""
        return self.kept_activation

    def scratch(self, threads: int) -> int:
        """See ``Operators``: for each thread keys, values and gradients of one head of a row, and scores and slopes."""
        s = self._sizes
        one = s.length * (5 * s.config.head_dim + 2 * QUERY_TILE) * FLOAT
        return min(threads, s.rows * s.kv_heads) * one


class FlashOperators(NativeOperators):
    """Those of a GPU in half precision: flash attention, and activations and norms of one kernel."""

    @property
    def shared(self) -> int:
        """See ``Operators``."""
        return self._sizes.rotations

    def scratch(self, threads: int) -> int:
        """See ``Operators``."""
        return 0
