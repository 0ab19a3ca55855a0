"""Bytes of the tensors that are alive while layers run, counted from what the operators save and make.

Counted at a few moments that the largest one is among, each named after what runs. M tokens of n rows of S; H hidden,
Q and K the widths of queries and keys in this process, I its share of the feed-forward width, W attention weights. What
grows with M alone (scales of norms, positions) is left out: less than a hundredth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from alignment.models.config import DecoderConfig
from alignment.models.split_plan import layer_sizes
from alignment.parallel.parts import even_cut

PIECE_BYTES = 64 << 20
"""As ``ops.attention`` and ``ops.token_logprobs``, which need Paddle: larger scores and logits are made in pieces."""
FLOAT = 4
_INDEX = 8


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One micro-batch of full rows through layers of one process."""

    config: DecoderConfig
    rows: int
    length: int
    tensor: int
    """Tensor-parallel degree."""
    sequence_parallel: bool
    item: int
    """Bytes of an activation."""
    recompute: str = ""
    """What the backward pass computes again: ``full``, ``full_attn``, ``core_attn``, or nothing."""

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
        """What a norm keeps: its input, in float32."""
        return self.boundary // self.item * FLOAT

    @cached_property
    def _sizes(self):
        return layer_sizes(self.config, tensor_degree=self.tensor, tensor_index=0)

    @cached_property
    def _is_flash(self) -> bool:
        return self.item < FLOAT and self.config.sliding_window is None

    @cached_property
    def _head_item(self) -> int:
        """Bytes of a number inside attention: flash attention alone works in half precision."""
        return self.item if self._is_flash else FLOAT

    @cached_property
    def queries(self) -> int:
        """Queries, inside attention."""
        return self.tokens * self._sizes.heads * self.config.head_dim * self._head_item

    @cached_property
    def keys(self) -> int:
        """Keys or values, inside attention."""
        return self.tokens * self._sizes.kv_heads * self.config.head_dim * self._head_item

    @cached_property
    def inner(self) -> int:
        """The feed-forward block's gate, up projection or product."""
        return self.tokens * self._sizes.inner * self.item

    @cached_property
    def weights(self) -> int:
        """W of all heads; flash attention keeps one number for each query instead."""
        return self.rows * self._sizes.heads * self.length * (1 if self._is_flash else self.length) * FLOAT

    @cached_property
    def _piece(self) -> int:
        """W of the heads that are computed together."""
        if self._is_flash:
            return 0
        group = self._sizes.heads // self._sizes.kv_heads
        one = group * self.length**2 * FLOAT
        return min(self.weights, max(1, PIECE_BYTES // one) * one)

    @cached_property
    def _in_pieces(self) -> bool:
        return 0 < self._piece < self.weights

    @cached_property
    def _kept_weights(self) -> int:
        return 0 if self._in_pieces or self.recompute == "core_attn" else self.weights

    @cached_property
    def _kept_attention(self) -> int:
        """The norm's output, queries, keys, values and the output head by head, the output token by token, W."""
        normed_heads = self._widened_heads if self.config.qk_norm else 0
        out = self.queries // self._head_item * self.item
        return self.hidden + 2 * self.queries + 2 * self.keys + out + self._kept_weights + normed_heads

    @cached_property
    def _widened_heads(self) -> int:
        return (self.queries + self.keys) // self._head_item * FLOAT

    @cached_property
    def _kept_feed_forward(self) -> int:
        """The norm's input and output; gate, up, the sigmoid and their product."""
        return self.norm_input + self.hidden + 4 * self.inner

    @cached_property
    def kept_by_layer(self) -> int:
        """What one layer keeps for its backward pass."""
        if self.recompute == "full":
            return self.boundary
        if self.recompute == "full_attn":
            return self.boundary + self._kept_feed_forward
        return self.norm_input + self._kept_attention + self._kept_feed_forward

    @cached_property
    def shared(self) -> int:
        """What all layers of a pass share: cosines and sines, the places of half-heads and heads, the mask."""
        heads, kv_heads = self._sizes.heads, self._sizes.kv_heads
        tables = 2 * self.tokens * (heads + kv_heads) * self.config.head_dim * self.item
        halves = 2 * self.tokens * (heads + kv_heads) * _INDEX
        orders = 2 * self.tokens * (heads + (kv_heads if kv_heads != heads else 0)) * _INDEX
        return tables + halves + orders + self.length**2 * FLOAT

    def kept(self, num_layers: int) -> int:
        """Return what ``num_layers`` layers keep of one micro-batch."""
        return num_layers * self.kept_by_layer + self.shared

    @cached_property
    def _computed_again(self) -> int:
        """The layer as it is kept without recomputing; its output and the gradient of that wait outside."""
        if self.recompute != "full":
            return 0
        widened_input = self.norm_input if self.item < FLOAT else 0
        return self._kept_attention + self._kept_feed_forward + widened_input + 2 * self.boundary

    @cached_property
    def going_back(self) -> int:
        """What a layer needs on its way back on top of all that is kept: where the feed-forward block goes back from
        its product, or where attention does, when the block is done.
        """
        feed_forward = self.boundary + 2 * self.inner
        attention = self._attention_back - self._kept_feed_forward + self.boundary
        if self.recompute == "full_attn":
            attention += self._kept_attention + 2 * self.boundary
        return self._computed_again + max(feed_forward, attention)

    def making_gradient(self, raw: int, arriving: int) -> int:
        """Return what is alive at the gradient of the last weight of a layer: ``raw`` bytes when it is made, and
        ``arriving`` bytes when it is added to others; a tensor-parallel sum keeps a copy of its argument.
        """
        copy = self.hidden if self.tensor > 1 else 0
        made, added = 2 * self.boundary + self.inner + raw, self.boundary + arriving
        return self._computed_again + copy + max(made, added)

    @cached_property
    def _attention_back(self) -> int:
        """Gradients of the heads in both orders; W computed again where it is not kept, and its gradient."""
        grads = 3 * self.queries + 4 * self.keys
        if not self._in_pieces:
            return grads + 2 * self.weights - self._kept_weights
        early = 2 * self.queries + 2 * self.keys + 4 * self._piece
        return max(early, grads + self.queries + 2 * self.keys + 2 * self._piece)

    @cached_property
    def local_heads(self) -> int:
        """Query heads of this process."""
        return self._sizes.heads

    @cached_property
    def keys_of_a_token(self) -> int:
        """Numbers of one token's keys in one layer of this process."""
        return self._sizes.kv_heads * self.config.head_dim

    @property
    def generating(self) -> int:
        """What reading prompts needs at most: like ``forward_only`` with fewer copies."""
        again = 3 if self._in_pieces else 2
        mixed = self.queries // self._head_item * self.item
        attention = self.hidden + 2 * self.queries + 4 * self.keys + again * self._piece
        feed_forward = 2 * self.hidden + 2 * self.inner
        return self.shared + mixed + max(attention, feed_forward)

    @property
    def forward_only(self) -> int:
        """What a pass without gradients needs at most: inputs of this and of the first layer, and one layer's own."""
        again = 3 if self._in_pieces else 2
        attention = 2 * self.boundary + self.hidden + 2 * self.queries + 4 * self.keys + again * self._piece
        feed_forward = 4 * self.boundary + self.hidden + 4 * self.inner
        return self.shared + max(attention, feed_forward)


@dataclass(frozen=True, kw_only=True)
class Head:
    """Log-probs of T targets in the process that has the logits of V tokens of the vocabulary."""

    config: DecoderConfig
    targets: int
    """T"""
    tensor: int
    item: int
    is_scaled: bool
    """Whether the sampling temperature is not 1."""

    @cached_property
    def _columns(self) -> int:
        start, stop = even_cut(self.config.vocab_size, self.tensor, 0)
        return stop - start

    @cached_property
    def _logits(self) -> int:
        """Bytes of the logits that are made together, in float32."""
        one = self._columns * FLOAT
        return min(self.targets, max(1, PIECE_BYTES // one)) * one

    @cached_property
    def in_pieces(self) -> bool:
        """Whether the logits are too many to be made at once."""
        return self._logits < self.targets * self._columns * FLOAT

    @cached_property
    def hidden(self) -> int:
        """The states of the targets, and those divided by the temperature."""
        return (1 + self.is_scaled) * self.targets * self.config.hidden_size * self.item

    @cached_property
    def weight(self) -> int:
        """Elements of the head."""
        return self._columns * self.config.hidden_size

    def forward_only(self, *, with_entropy: bool) -> int:
        """Return what log-probs need without gradients: logits and softmax; for entropies their product too."""
        return (3 if with_entropy or self.in_pieces else 2) * self._logits + self.hidden

    def logits_back(self, *, with_entropy: bool) -> int:
        """Return what is alive when the logits get their gradient: they or their softmax, and copies on the way."""
        copies = 3 if self.in_pieces else 8 if with_entropy else 2
        return copies * self._logits + self.hidden

    @cached_property
    def weight_back(self) -> int:
        """What is alive, beside gradients of the head, when one is made: logits of a piece and their gradient."""
        pieces = -(-self.targets * self._columns * FLOAT // self._logits)
        others = min(pieces, 2) if self.in_pieces else 1 + (self.tensor > 1)
        return others * self._logits + self.hidden + self.targets * self.config.hidden_size * self.item
