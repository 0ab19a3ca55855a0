"""GPT-NeoX and Pythia."""

from __future__ import annotations

from alignment.architecture.family import Family, FileMatrix, Files
from alignment.architecture.layer_weights import ATTENTION, NORMS, PLAIN_FEED_FORWARD

FAMILY = Family(
    name="gpt_neox",
    class_prefix="GPTNeoX",
    layer=(*ATTENTION, *PLAIN_FEED_FORWARD, *NORMS),
    flags={
        **dict.fromkeys(("attention_bias", "attention_output_bias"), "attention_bias"),
        "mlp_bias": True,
        "norm_bias": True,
        "parallel_block": "use_parallel_residual",
    },
    norm="layer",
    activations={
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "relu": "relu",
        "silu": "silu",
    },
    keys={
        "rms_norm_eps": "layer_norm_eps",
        "rope_theta": "rotary_emb_base",
        "partial_rotary_factor": "rotary_pct",
    },
    partial_rotary_factor=0.25,
    absent=("num_key_value_heads", "head_dim", "sliding_window"),
    defaults={
        "hidden_act": "gelu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "attention_bias": True,
        "use_parallel_residual": True,
        "bos_token_id": 0,
    },
    files=Files(
        layers="gpt_neox.layers.",
        names={
            "model.embed_tokens": "gpt_neox.embed_in",
            "model.norm": "gpt_neox.final_layer_norm",
            "lm_head": "embed_out",
        },
        matrices=(
            FileMatrix(name="attention.query_key_value", roles=("queries", "keys", "values"), by_group=True),
            FileMatrix(name="attention.dense", roles=("output",)),
            FileMatrix(name="mlp.dense_h_to_4h", roles=("up",)),
            FileMatrix(name="mlp.dense_4h_to_h", roles=("down",)),
        ),
        ignored=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
    ),
)
