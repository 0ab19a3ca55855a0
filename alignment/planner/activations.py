"""Bytes that a forward pass keeps for its backward pass, by the tensors our operators save.

M tokens of n rows of S; H hidden, Q and K the widths of queries and keys of this process, I its share of the
feed-forward width.
"""

from __future__ import annotations

from dataclasses import dataclass

from alignment.models.config import DecoderConfig

_PIECE_BYTES = 64 << 20
"""Scores and logits beyond this are made in pieces and not kept (ops.attention, ops.token_logprobs)."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One micro-batch through the layers of one process."""

    config: DecoderConfig
    rows: int
    length: int
    tensor: int
    """Tensor-parallel degree."""
    sequence_parallel: bool
    item: int
    """Bytes of one number."""

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def outside(self) -> int:
        """Tokens this process holds between attention and feed-forward."""
        return -(-self.tokens // self.tensor) if self.sequence_parallel else self.tokens

    @property
    def boundary(self) -> int:
        """Bytes of the hidden states that pass from layer to layer."""
        return self.outside * self.config.hidden_size * self.item

    @property
    def _widths(self) -> tuple[int, int, int]:
        config = self.config
        keys = max(config.num_key_value_heads // self.tensor, 1) * config.head_dim
        inner = -(-config.intermediate_size // self.tensor)
        return config.num_attention_heads // self.tensor * config.head_dim, keys, inner

    @property
    def kept_by_layer(self) -> int:
        """Bytes one layer keeps: inputs of norms and products, heads, attention weights, the gated activation."""
        queries, keys, inner = self._widths
        hidden = self.config.hidden_size
        tokens = self.tokens * (2 * hidden + 3 * queries + 2 * keys + 4 * inner) * self.item
        return tokens + 2 * self.boundary + self._attention_weights

    @property
    def _attention_weights(self) -> int:
        """Attention weights, when they are small enough to be kept; flash attention keeps none."""
        weights = self.rows * self.config.num_attention_heads // self.tensor * self.length**2 * self.item
        return weights if weights <= _PIECE_BYTES and self.item == 4 else 0

    @property
    def shared(self) -> int:
        """Bytes all layers of a pass share: rotary tables and the places of tokens."""
        queries, keys, _ = self._widths
        dim = self.config.head_dim
        tables = 2 * self.tokens * (queries + keys) * self.item
        places = self.tokens * (queries + keys) // dim * 5 * 8
        return tables + places + self.length**2 * 4

    @property
    def transient(self) -> int:
        """Bytes of the tensors alive at once while one layer runs forward or backward, on top of what is kept."""
        queries, keys, inner = self._widths
        scores = self.rows * self.config.num_attention_heads // self.tensor * self.length**2 * 4
        attention = self.tokens * (2 * queries + 2 * keys) * self.item + min(scores, _PIECE_BYTES) * 2
        return (
            max(attention, 3 * self.tokens * inner * self.item) + 2 * self.tokens * self.config.hidden_size * self.item
        )

    def kept(self, num_layers: int, *, recompute: bool) -> int:
        """Return the bytes ``num_layers`` layers keep of one micro-batch."""
        if recompute:
            return num_layers * self.boundary + self.kept_by_layer + self.shared
        return num_layers * self.kept_by_layer + self.shared

    def head(self, targets: int, *, copies: int) -> int:
        """Return the bytes of the vocabulary head over ``targets`` tokens; ``copies`` of the logits live at once."""
        logits = targets * -(-self.config.vocab_size // self.tensor) * 4
        return copies * min(logits, _PIECE_BYTES) + targets * self.config.hidden_size * self.item
