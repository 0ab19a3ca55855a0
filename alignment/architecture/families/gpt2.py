"""GPT-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignment.architecture.family import Family, FileMatrix, Files
from alignment.architecture.layer_weights import ATTENTION, NORMS, PLAIN_FEED_FORWARD


def four_times_hidden(given: Mapping[str, Any]) -> int | None:
    """Return the width of a feed-forward block, by default four times that of hidden states (None: not given)."""
    inner, hidden = given.get("intermediate_size"), given.get("hidden_size")
    return 4 * hidden if inner is None and hidden is not None else inner


FAMILY = Family(
    name="gpt2",
    class_prefix="GPT2",
    causal_class="GPT2LMHeadModel",
    layer=(*ATTENTION, *PLAIN_FEED_FORWARD, *NORMS),
    flags=dict.fromkeys(
        ("attention_bias", "attention_output_bias", "mlp_bias", "norm_bias", "learned_positions"), True
    ),
    norm="layer",
    activations={
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu": "gelu",
        "relu": "relu",
        "silu": "silu",
        "swish": "silu",
    },
    keys={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
        "rms_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
    },
    also_llama=("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
    absent=(
        *("num_key_value_heads", "head_dim", "sliding_window"),
        *("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"),
    ),
    fixed={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    complete=lambda given: {**given, "intermediate_size": four_times_hidden(given)},
    defaults={
        "vocab_size": 50257,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "hidden_act": "gelu_new",
        "tie_word_embeddings": True,
        "bos_token_id": 50256,
    },
    files=Files(
        layers="transformer.h.",
        names={
            "model.embed_tokens": "transformer.wte",
            "model.embed_positions": "transformer.wpe",
            "model.norm": "transformer.ln_f",
            "input_layernorm": "ln_1",
            "post_attention_layernorm": "ln_2",
        },
        matrices=(
            FileMatrix(name="attn.c_attn", roles=("queries", "keys", "values"), inputs_first=True),
            FileMatrix(name="attn.c_proj", roles=("output",), inputs_first=True),
            FileMatrix(name="mlp.c_fc", roles=("up",), inputs_first=True),
            FileMatrix(name="mlp.c_proj", roles=("down",), inputs_first=True),
        ),
        ignored=(".attn.bias", ".attn.masked_bias"),
    ),
)
