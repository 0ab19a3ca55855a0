"""Weights of a layer that several families share, for their tables."""

from __future__ import annotations

from alignment.architecture.family import Weight

ATTENTION = (
    Weight("queries", "self_attn.q_proj", ("hidden", "queries"), cut="columns", bias="attention_bias"),
    Weight("keys", "self_attn.k_proj", ("hidden", "keys"), cut="columns", bias="attention_bias"),
    Weight("values", "self_attn.v_proj", ("hidden", "keys"), cut="columns", bias="attention_bias"),
    Weight("output", "self_attn.o_proj", ("queries", "hidden"), cut="rows", bias="attention_output_bias"),
)
FEED_FORWARD = (
    Weight("gate", "mlp.gate_proj", ("hidden", "inner"), cut="columns", bias="mlp_bias"),
    Weight("up", "mlp.up_proj", ("hidden", "inner"), cut="columns", bias="mlp_bias"),
    Weight("down", "mlp.down_proj", ("inner", "hidden"), cut="rows", bias="mlp_bias"),
)
HEAD_NORMS = (
    Weight("query_norm", "self_attn.q_norm", ("head",), "norm", needs="qk_norm"),
    Weight("key_norm", "self_attn.k_norm", ("head",), "norm", needs="qk_norm"),
)
NORMS = (
    Weight("input_norm", "input_layernorm", ("hidden",), "norm", bias="norm_bias"),
    Weight("feed_norm", "post_attention_layernorm", ("hidden",), "norm", bias="norm_bias"),
)
POST_NORMS = (
    Weight("attended_norm", "post_attention_layernorm", ("hidden",), "norm"),
    Weight("fed_norm", "post_feedforward_layernorm", ("hidden",), "norm"),
)
"""Norms of what attention and feed-forward give, before it is added to the hidden states."""
LLAMA_LAYER = (*ATTENTION, *FEED_FORWARD, *HEAD_NORMS, *NORMS)
PLAIN_FEED_FORWARD = FEED_FORWARD[1:]
"""A feed-forward block without a gate."""
