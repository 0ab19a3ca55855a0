"""The decoder of the Llama family (llama, mistral, qwen2, qwen3), parameter for parameter as Hugging Face names it.

All layers work on the M real tokens of a batch, [M, H]: padding costs nothing and no tensor has more than two axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from alignment.models.config import DecoderConfig
from alignment.models.layers import Embedding, Linear, RmsNorm
from alignment.ops.attention import causal_attention
from alignment.ops.head_layout import HeadLayout
from alignment.ops.rotary import RotaryTables, apply_rotary
from alignment.ops.rotary_frequencies import inverse_frequencies
from alignment.ops.swiglu import swiglu


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """What every layer of one forward pass shares."""

    layout: HeadLayout
    query_rotary: RotaryTables
    key_rotary: RotaryTables


class Attention(nn.Layer):
    """Causal self-attention; head counts follow from the weights, so a split layer needs no other code."""

    def __init__(self, config: DecoderConfig, *, dtype: str) -> None:
        super().__init__(dtype=dtype)
        width, dim, bias = config.hidden_size, config.head_dim, config.attention_bias
        queries, keys = config.num_attention_heads * dim, config.num_key_value_heads * dim
        self.q_proj = Linear(width, queries, bias=bias, dtype=dtype)
        self.k_proj = Linear(width, keys, bias=bias, dtype=dtype)
        self.v_proj = Linear(width, keys, bias=bias, dtype=dtype)
        self.o_proj = Linear(queries, width, bias=config.attention_output_bias, dtype=dtype)
        self.q_norm = RmsNorm(dim, eps=config.rms_norm_eps, dtype=dtype) if config.qk_norm else None
        self.k_norm = RmsNorm(dim, eps=config.rms_norm_eps, dtype=dtype) if config.qk_norm else None

    def forward(self, x: paddle.Tensor, plan: SequencePlan) -> paddle.Tensor:
        """Return [M, H] for x [M, H]."""
        q = apply_rotary(_norm_heads(self.q_norm, self.q_proj(x)), plan.query_rotary)
        k = apply_rotary(_norm_heads(self.k_norm, self.k_proj(x)), plan.key_rotary)
        return self.o_proj(causal_attention(q, k, self.v_proj(x), plan.layout))


def _norm_heads(norm: RmsNorm | None, x: paddle.Tensor) -> paddle.Tensor:
    """Normalise every head of x [M, heads * D] when the family does so."""
    return x if norm is None else norm(x.reshape([-1, norm.weight.shape[0]])).reshape(x.shape)


class FeedForward(nn.Layer):
    """The gated feed-forward block."""

    def __init__(self, config: DecoderConfig, *, dtype: str) -> None:
        super().__init__(dtype=dtype)
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(width, inner, bias=bias, dtype=dtype)
        self.up_proj = Linear(width, inner, bias=bias, dtype=dtype)
        self.down_proj = Linear(inner, width, bias=bias, dtype=dtype)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [M, H] for x [M, H]."""
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class DecoderLayer(nn.Layer):
    """Attention and feed-forward, each behind a norm and added to its input."""

    def __init__(self, config: DecoderConfig, *, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.self_attn = Attention(config, dtype=dtype)
        self.mlp = FeedForward(config, dtype=dtype)
        self.input_layernorm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)

    def forward(self, hidden: paddle.Tensor, plan: SequencePlan) -> paddle.Tensor:
        """Return [M, H] for hidden [M, H]."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), plan)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Decoder(nn.Layer):
    """Token ids to final hidden states. ``recompute = True`` keeps one layer's activations in memory while training."""

    def __init__(self, config: DecoderConfig, *, dtype: str = "float32") -> None:
        super().__init__(dtype=dtype)
        self.config = config
        self.recompute = False
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, dtype=dtype)
        self.layers = nn.LayerList([DecoderLayer(config, dtype=dtype) for _ in range(config.num_hidden_layers)])
        self.norm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)

    def forward(
        self,
        input_ids: np.ndarray | paddle.Tensor,
        position_ids: np.ndarray | paddle.Tensor | None = None,
        *,
        lengths: np.ndarray | None = None,
    ) -> paddle.Tensor:
        """Return hidden states [n, S, H] of right-padded ``input_ids`` [n, S].

        With ``lengths`` [n] the padding is not computed and comes back as zeros. ``position_ids`` [n, S] default to
        0, 1, 2, ... in each row.
        """
        ids = np.asarray(input_ids)
        lengths = np.full(ids.shape[0], ids.shape[1]) if lengths is None else lengths
        places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        real = places < lengths[:, None]
        positions = places if position_ids is None else np.asarray(position_ids)
        plan = self._plan(lengths, positions[real])
        hidden = self.embed_tokens(paddle.to_tensor(ids[real], "int64"))
        for layer in self.layers:
            hidden = self._run(layer, hidden, plan)
        return _unpack(self.norm(hidden), real)

    def _run(self, layer: DecoderLayer, hidden: paddle.Tensor, plan: SequencePlan) -> paddle.Tensor:
        if self.recompute and self.training and paddle.is_grad_enabled():
            return recompute(layer, hidden, plan, preserve_rng_state=False)
        return layer(hidden, plan)

    def _plan(self, lengths: np.ndarray, positions: np.ndarray) -> SequencePlan:
        """Return the plan of rows with ``lengths`` [n], whose real tokens stand at ``positions`` [M]."""
        config, attention = self.config, self.layers[0].self_attn
        heads, kv_heads = (p.weight.shape[1] // config.head_dim for p in (attention.q_proj, attention.k_proj))
        dtype = "float64" if self.norm.weight.dtype == paddle.float64 else "float32"
        layout = HeadLayout.build(
            lengths, num_heads=heads, num_kv_heads=kv_heads, dtype=dtype, window=config.sliding_window
        )
        frequencies, scale = inverse_frequencies(
            config.head_dim, config.rope_theta, config.rope_scaling, max_positions=config.max_position_embeddings
        )
        queries, keys = (
            RotaryTables.build(positions, frequencies, heads=count, scale=scale, dtype=self.norm.weight.dtype)
            for count in (heads, kv_heads)
        )
        return SequencePlan(layout, queries, keys)


def _unpack(tokens: paddle.Tensor, real: np.ndarray) -> paddle.Tensor:
    """Return tokens [M, H] in their places [n, S, H]; ``real`` [n, S] is True on them, other places are zero."""
    shape = [*real.shape, tokens.shape[1]]
    if real.all():
        return tokens.reshape(shape)
    places = paddle.to_tensor(np.flatnonzero(real)).unsqueeze(-1)
    return paddle.scatter_nd(places, tokens, [real.size, tokens.shape[1]]).reshape(shape)


class CausalLM(nn.Layer):
    """A decoder with its vocabulary head; with tied embeddings ``lm_head`` is None and the embedding serves."""

    def __init__(self, config: DecoderConfig, *, dtype: str = "float32") -> None:
        super().__init__(dtype=dtype)
        self.config = config
        self.model = Decoder(config, dtype=dtype)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else Linear(config.hidden_size, config.vocab_size, bias=False, dtype=dtype)

    def forward(
        self,
        input_ids: np.ndarray | paddle.Tensor,
        position_ids: np.ndarray | paddle.Tensor | None = None,
        *,
        lengths: np.ndarray | None = None,
    ) -> paddle.Tensor:
        """Return logits [n, S, V]; for training use ``models.logprobs``, which makes only the logits it needs."""
        weight, transposed = self.head()
        hidden = self.model(input_ids, position_ids, lengths=lengths)
        return paddle.matmul(hidden, weight, transpose_y=transposed)

    def head(self) -> tuple[paddle.Tensor, bool]:
        """Return (head weight, True when it is [V, H] and has to be transposed)."""
        return (self.model.embed_tokens.weight, True) if self.lm_head is None else (self.lm_head.weight, False)
