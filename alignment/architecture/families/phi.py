"""Phi-1, Phi-1.5 and Phi-2."""

from __future__ import annotations

from alignment.architecture.family import Family, FileMatrix, Files
from alignment.architecture.layer_weights import ATTENTION, NORMS, PLAIN_FEED_FORWARD

FAMILY = Family(
    name="phi",
    class_prefix="Phi",
    layer=(*ATTENTION, *PLAIN_FEED_FORWARD, *NORMS),
    flags=dict.fromkeys(
        (
            *("attention_bias", "attention_output_bias", "mlp_bias", "norm_bias", "head_bias"),
            *("parallel_block", "shared_norm"),
        ),
        True,
    ),
    norm="layer",
    activations={
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "gelu": "gelu",
        "relu": "relu",
        "silu": "silu",
    },
    keys={"rms_norm_eps": "layer_norm_eps"},
    absent=("head_dim", "sliding_window"),
    fixed={"qk_layernorm": (False,), "tie_word_embeddings": (False,)},
    partial_rotary_factor=0.5,
    defaults={
        "rms_norm_eps": 1e-5,
        "hidden_act": "gelu_new",
        "max_position_embeddings": 2048,
        "qk_layernorm": False,
        "bos_token_id": 1,
    },
    files=Files(
        names={"model.norm": "model.final_layernorm", "mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"},
        matrices=(FileMatrix(name="self_attn.dense", roles=("output",)),),
        ignored=(".rotary_emb.inv_freq",),
    ),
)
